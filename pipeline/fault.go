package pipeline

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ossify/ossify/pyjson"
)

// ValidationError lists what is wrong with a manifest.
type ValidationError struct {
	// Name of the manifest.
	Name   string
	Faults []Fault
}

// Fault is one thing that is wrong with a manifest.
type Fault struct {
	// Path leads to the value: strings and ints.
	Path []any
	// Line counts from 1; 0 is unknown.
	Line    int
	Message string
	// told is how osbuild puts it, if osbuild checks the same.
	told *verdict
}

// verdict is an error in osbuild's words, at the place that osbuild gives.
type verdict struct {
	path    []any
	message string
}

// ID writes the fault's path as osbuild does.
func (f Fault) ID() string {
	if len(f.Path) == 0 {
		return "."
	}
	return pathString(f.Path)
}

func pathString(path []any) string {
	var b strings.Builder
	for _, step := range path {
		switch step := step.(type) {
		case string:
			b.WriteString(pyjson.Member(step))
		case int:
			fmt.Fprintf(&b, "[%d]", step)
		}
	}
	return b.String()
}

// Error lists the faults, one a line.
func (e *ValidationError) Error() string {
	var b strings.Builder
	for i, f := range e.Faults {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.Name)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
		}
		if len(f.Path) > 0 {
			b.WriteString(": " + f.ID())
		}
		b.WriteString(": " + f.Message)
	}
	return b.String()
}

// MarshalJSON writes the faults in osbuild's form and words, each once, sorted
// by place (osbuild/meta.py, ValidationResult.as_dict).
func (e *ValidationError) MarshalJSON() ([]byte, error) {
	type entry struct {
		Message string `json:"message"`
		Path    []any  `json:"path"`
		id      string
	}
	entries := []entry{}
	for _, f := range e.Faults {
		told := verdict{f.Path, f.Message}
		if f.told != nil {
			told = *f.told
		}
		entries = append(entries, entry{told.message, append([]any{}, told.path...), pathString(told.path)})
	}
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(strings.Compare(a.id, b.id), strings.Compare(a.Message, b.Message))
	})
	entries = slices.CompactFunc(entries, func(a, b entry) bool { return a.id == b.id && a.Message == b.Message })
	return json.Marshal(map[string]any{
		"type":    "https://osbuild.org/validation-error",
		"title":   "JSON Schema validation failed",
		"success": false,
		"errors":  entries,
	})
}
