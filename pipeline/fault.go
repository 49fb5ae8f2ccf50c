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
		default: // what should be a name, and is not
			fmt.Fprintf(&b, "[%s]", pyRepr(step))
		}
	}
	return b.String()
}

// Error lists the faults, one a line.
func (e *ValidationError) Error() string {
	var lines []string
	said := map[string]bool{}
	for _, f := range e.Faults {
		line := e.Name
		if f.Line > 0 {
			line += fmt.Sprintf(":%d", f.Line)
		}
		if len(f.Path) > 0 {
			line += ": " + f.ID()
		}
		line += ": " + f.Message
		if !said[line] {
			said[line] = true
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// JSON writes the faults in osbuild's form and words, each once, sorted by place
// (osbuild/meta.py, ValidationResult.as_dict).
func (e *ValidationError) JSON() []byte {
	type entry struct{ id, message, text string }
	var entries []entry
	for _, f := range e.Faults {
		told := verdict{f.Path, f.Message}
		if f.told != nil {
			told = *f.told
		}
		text := pyjson.NewObject("message", told.message, "path", told.path)
		entries = append(entries, entry{pathString(told.path), told.message, string(pyjson.Dumps(text, false))})
	}
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(strings.Compare(a.id, b.id), strings.Compare(a.message, b.message))
	})
	entries = slices.CompactFunc(entries, func(a, b entry) bool { return a.id == b.id && a.message == b.message })
	errors := []any{}
	for _, e := range entries {
		errors = append(errors, json.RawMessage(e.text))
	}
	return pyjson.Dumps(pyjson.NewObject(
		"type", "https://osbuild.org/validation-error",
		"title", "JSON Schema validation failed",
		"success", false,
		"errors", errors,
	), false)
}
