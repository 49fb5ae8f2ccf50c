package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
)

// Match returns the pipelines that have the given name or id, or a stage with
// it. The pattern may be a glob as in path.Match, as osbuild's --checkpoint.
func (m *Manifest) Match(pattern string) ([]*Pipeline, error) {
	var found []*Pipeline
	for _, p := range m.Pipelines {
		names := []string{p.Name}
		for _, s := range p.Stages {
			names = append(names, s.ID, s.Name)
		}
		for _, name := range names {
			ok, err := path.Match(pattern, name)
			if err != nil {
				return nil, fmt.Errorf("pattern %q: %w", pattern, err)
			}
			if ok {
				found = append(found, p)
				break
			}
		}
	}
	return found, nil
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
