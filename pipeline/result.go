package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Match returns the stages that the patterns of --checkpoint mean: those with a
// matching name or id, and the last one of a pipeline with a matching name. The
// patterns are those of Python's fnmatch.
func (m *Manifest) Match(patterns ...string) []*Stage {
	expressions := make([]*regexp.Regexp, len(patterns))
	for i, pattern := range patterns {
		expressions[i] = fnmatch(pattern)
	}
	matching := func(name string) bool {
		return slices.ContainsFunc(expressions, func(r *regexp.Regexp) bool { return r.MatchString(name) })
	}
	var found []*Stage
	for _, p := range m.Pipelines {
		for i, s := range p.Stages {
			last := i == len(p.Stages)-1
			if matching(s.ID) || matching(s.Name) || last && matching(p.Name) {
				found = append(found, s)
			}
		}
	}
	return found
}

// fnmatch is a shell pattern as an expression: *, ?, [seq] and [!seq]; a bracket
// that is not closed stands for itself.
func fnmatch(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(pattern); {
		switch c := pattern[i]; c {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteByte('.')
		case '[':
			if set, n := bracket(pattern[i:]); n > 0 {
				b.WriteString(set)
				i += n
				continue
			}
			b.WriteString(`\[`)
		default:
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
		i++
	}
	b.WriteString(`\z`)
	r, err := regexp.Compile(b.String())
	if err != nil { // such as a range from z to a, which matches nothing
		return regexp.MustCompile(`[^\s\S]`)
	}
	return r
}

// bracket is the set that s begins with and its length in s, 0 if there is none.
func bracket(s string) (set string, length int) {
	body, not := s[1:], ""
	if rest, ok := strings.CutPrefix(body, "!"); ok {
		body, not = rest, "^"
	}
	if body == "" {
		return "", 0
	}
	end := strings.IndexByte(body[1:], ']') + 1 // a bracket that comes first is a member
	if end == 0 {
		return "", 0
	}
	members := strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`).Replace(body[:end])
	return "[" + not + members + "]", len(s) - len(body) + end + 1
}

// logEntry is a stage in the "log" of osbuild's result.
type logEntry struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Output  string `json:"output"`
	Success *bool  `json:"success,omitempty"`
	Error   any    `json:"error,omitempty"`
}

// WriteResult writes the outcome of Run as JSON in the form of osbuild's format
// 2 (osbuild/formats/v2.py, output). runErr is what Run returned.
func WriteResult(w io.Writer, m *Manifest, res *Result, runErr error) error {
	out := map[string]any{"type": "result", "success": runErr == nil}
	if runErr != nil {
		out["type"] = "error"
		out["error"] = describeError(res, runErr)
	} else {
		metadata := map[string]any{}
		for _, p := range res.Pipelines {
			data := map[string]json.RawMessage{}
			for _, s := range p.Stages {
				if len(s.Metadata) > 0 {
					data[s.Stage.Name] = s.Metadata
				}
			}
			if len(data) > 0 {
				metadata[p.Pipeline.Name] = data
			}
		}
		out["metadata"] = metadata
	}
	sources := map[string]any{"success": true}
	for _, s := range res.Sources {
		if s.Err != nil {
			sources["success"] = false
		}
		items := make([]any, 0, len(s.Results))
		for _, raw := range s.Results {
			var item struct {
				Error    string         `json:"error"`
				Metadata map[string]any `json:"metadata"`
			}
			if err := json.Unmarshal(raw, &item); err != nil {
				return fmt.Errorf("result of source %s: %w", s.Source.Name, err)
			}
			entry := map[string]any{}
			for _, key := range []string{"cached", "checksum"} {
				if v, ok := item.Metadata[key]; ok {
					entry[key] = v
				}
			}
			if item.Error != "" {
				entry["error"] = item.Error
			}
			items = append(items, entry)
		}
		sources[s.Source.Name] = items
	}
	out["sources"] = sources
	log := map[string][]logEntry{}
	for _, p := range res.Pipelines {
		for _, s := range p.Stages {
			if s.Cached {
				continue
			}
			entry := logEntry{ID: s.Stage.ID, Type: s.Stage.Name, Output: s.Output}
			if !s.Success {
				entry.Success = new(bool)
				if s.Error != nil {
					entry.Error = map[string]any{"type": "exception", "data": s.Error}
				}
			}
			log[p.Pipeline.Name] = append(log[p.Pipeline.Name], entry)
		}
	}
	out["log"] = log
	return json.NewEncoder(w).Encode(out)
}

func describeError(res *Result, runErr error) any {
	var failed *StageFailed
	if errors.As(runErr, &failed) {
		r := failed.Result
		stage := map[string]any{"id": r.Stage.ID, "type": r.Stage.Name, "output": r.Output, "error": nil}
		if r.Error != nil {
			stage["error"] = map[string]any{"type": "exception", "data": r.Error}
		}
		return map[string]any{"type": "org.osbuild.error.stage", "details": map[string]any{"stage": stage}}
	}
	for _, s := range res.Sources {
		if s.Err != nil {
			return map[string]any{"type": "org.osbuild.error.source", "details": map[string]any{
				"source": map[string]any{"type": s.Source.Name, "output": s.Err.Error()},
			}}
		}
	}
	return map[string]any{"type": "org.ossify.error", "details": runErr.Error()}
}
