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

// WriteResult writes the outcome of Run with these options as JSON in osbuild's
// form for manifests of that format. runErr is what Run returned.
func WriteResult(w io.Writer, m *Manifest, opts RunOptions, res *Result, runErr error) error {
	b := &builder{RunOptions: opts, manifest: m}
	if err := b.computeKeys(); err != nil {
		return err
	}
	out, err := b.result2(res, runErr)
	if m.Version == "1" {
		out, err = b.result1(res, runErr)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(out)
}

// metadataOf is what the stage has left as its metadata, in this build or in an
// earlier one; nil if there is none.
func (b *builder) metadataOf(s *Stage, res *Result) (json.RawMessage, error) {
	for _, p := range res.Pipelines {
		for _, r := range p.Stages {
			if r.Stage == s && !r.Cached {
				return r.Metadata, nil
			}
		}
	}
	layer, err := b.Store.Find(s.ID, b.keys[s])
	if err != nil || layer == nil {
		return nil, err
	}
	return b.Store.Metadata(layer)
}

// metadata is that of all stages, by pipeline and by name; stages of the same name
// share an object.
func (b *builder) metadata(res *Result) (map[string]any, error) {
	all := map[string]any{}
	for _, p := range b.manifest.Pipelines {
		data := map[string]map[string]json.RawMessage{}
		for _, s := range p.Stages {
			raw, err := b.metadataOf(s, res)
			if err != nil {
				return nil, err
			}
			if len(raw) == 0 {
				continue
			}
			if data[s.Name] == nil {
				data[s.Name] = map[string]json.RawMessage{}
			}
			members := data[s.Name]
			if err := json.Unmarshal(raw, &members); err != nil {
				return nil, fmt.Errorf("metadata of stage %d (%s) of pipeline %q: must be an object", s.Index, s.Name, p.Name)
			}
		}
		if len(data) > 0 {
			all[p.Name] = data
		}
	}
	return all, nil
}

// result1 is the result of a manifest of format 1 (osbuild/formats/v1.py, output):
// a pipeline with the one that builds it inside. The two ids are those of osbuild's
// first releases.
func (b *builder) result1(res *Result, runErr error) (map[string]any, error) {
	tree := b.manifest.Pipeline(treePipeline)
	out, err := b.pipeline1(tree, res)
	if err != nil {
		return nil, err
	}
	if asm := b.manifest.Pipeline(assemblerPipeline); asm != nil {
		stages, err := b.stages1(asm, res)
		if err != nil {
			return nil, err
		}
		if len(stages) > 0 {
			out["assembler"] = stages[0]
		}
		if runErr == nil && res.Tree(asm) != nil {
			out["output_id"] = asm.ID()
		}
	}
	if runErr == nil && res.Tree(tree) != nil {
		out["tree_id"] = tree.ID()
	}
	if runErr != nil {
		out["success"] = false
		if failed := (*StageFailed)(nil); !errors.As(runErr, &failed) {
			out["error"] = describeError(res, runErr)
		}
	}
	return out, nil
}

func (b *builder) pipeline1(p *Pipeline, res *Result) (map[string]any, error) {
	stages, err := b.stages1(p, res)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"success": !slices.ContainsFunc(stages, func(s map[string]any) bool { return s["success"] == false })}
	if len(stages) > 0 {
		out["stages"] = stages
	}
	if p.Build != nil {
		build, err := b.pipeline1(p.Build, res)
		if err != nil {
			return nil, err
		}
		out["build"] = build
		out["success"] = build["success"] == true && out["success"] == true
	}
	return out, nil
}

// stages1 are the stages of a pipeline that ran.
func (b *builder) stages1(p *Pipeline, res *Result) ([]map[string]any, error) {
	var stages []map[string]any
	for _, pr := range res.Pipelines {
		if pr.Pipeline != p {
			continue
		}
		for _, s := range pr.Stages {
			if s.Cached {
				continue
			}
			metadata, err := b.metadataOf(s.Stage, res)
			if err != nil {
				return nil, err
			}
			stages = append(stages, map[string]any{
				"id": s.Stage.ID, "type": s.Stage.Name, "success": s.Success,
				"error": stageException(s), "output": s.Output, "metadata": metadata,
			})
		}
	}
	return stages, nil
}

// stageException is what the module reported in the form of osbuild's API, or nil.
func stageException(s *StageResult) any {
	if s.Error == nil {
		return nil
	}
	return map[string]any{"type": "exception", "data": s.Error}
}

// result2 is the result of a manifest of format 2 (osbuild/formats/v2.py, output).
func (b *builder) result2(res *Result, runErr error) (map[string]any, error) {
	out := map[string]any{"type": "result", "success": runErr == nil}
	if runErr != nil {
		out["type"] = "error"
		out["error"] = describeError(res, runErr)
	} else {
		metadata, err := b.metadata(res)
		if err != nil {
			return nil, err
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
				return nil, fmt.Errorf("result of source %s: %w", s.Source.Name, err)
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
				entry.Error = stageException(s)
			}
			log[p.Pipeline.Name] = append(log[p.Pipeline.Name], entry)
		}
	}
	out["log"] = log
	return out, nil
}

func describeError(res *Result, runErr error) any {
	var failed *StageFailed
	if errors.As(runErr, &failed) {
		r := failed.Result
		stage := map[string]any{"id": r.Stage.ID, "type": r.Stage.Name, "output": r.Output, "error": stageException(r)}
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
