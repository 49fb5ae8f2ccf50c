package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"unicode"

	"github.com/ossify/ossify/pyjson"
)

// Load reads a manifest of either format, checks it against the manifest's and
// every module's schema, resolves its references and computes the ids. name is
// for messages. What is wrong with the manifest comes as a *ValidationError.
func Load(name string, data []byte, index *Index) (*Manifest, error) {
	c := &checker{ix: index, name: name, data: data, offsets: map[string]int{}}
	doc, err := pyjson.Decode(data, c.offsets)
	var syntax *pyjson.SyntaxError
	if errors.As(err, &syntax) {
		return nil, &ValidationError{Name: fmt.Sprintf("%s:%d:%d", name, syntax.Line, syntax.Column),
			Faults: []Fault{{Message: "not JSON: " + syntax.Reason, told: &verdict{nil, "not JSON: " + syntax.Error()}}}}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	root, ok := doc.(*pyjson.Object)
	if !ok {
		c.fail(nil, "a manifest is a JSON object")
		return nil, c.err()
	}
	if wrapped := wrapPipeline(root); wrapped != root {
		root = wrapped
		for path, off := range maps.Clone(c.offsets) {
			c.offsets[".pipeline"+path] = off
		}
	}
	if c.finite(root, nil); c.err() != nil {
		return nil, c.err()
	}
	m := &Manifest{Name: name, Version: "1"}
	if v, ok := root.Values["version"]; ok {
		m.Version, _ = v.(string)
	}
	l := &loader{checker: c, m: m, root: root}
	switch m.Version {
	case "1":
		err = l.format1()
	case "2":
		err = l.format2()
	default:
		c.fail([]any{"version"}, "unknown manifest version %s; known: \"1\", \"2\"", pyjson.Dumps(root.Values["version"], false))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return m, nil
}

// finite notes the numbers that are too large for JSON readers. Python makes
// Infinity of them, which no module but a Python one could read.
func (c *checker) finite(v any, path []any) {
	switch v := v.(type) {
	case *pyjson.Object:
		for _, k := range v.Keys {
			c.finite(v.Values[k], below(path, k))
		}
	case []any:
		for i, item := range v {
			c.finite(item, below(path, i))
		}
	case json.Number:
		if !pyjson.Finite(v) {
			c.fail(path, "the number %.20s is too large", string(v))
		}
	}
}

// loader fills a manifest from its JSON.
type loader struct {
	*checker
	m    *Manifest
	root *pyjson.Object
	host *Runner
	// sourceless says that there is no module for one of the sources, so that
	// its items are not known.
	sourceless bool
}

// hostRunner is the runner of pipelines without a build pipeline.
func (l *loader) hostRunner() (Runner, error) {
	if l.host == nil {
		r, err := l.ix.HostRunner()
		if err != nil {
			return Runner{}, err
		}
		l.host = &r
	}
	return *l.host, nil
}

// runner is the runner of that name; it notes if there is none.
func (l *loader) runner(name string, path []any) (Runner, error) {
	r, err := l.ix.Runner(name)
	if errors.Is(err, fs.ErrNotExist) {
		distro, _ := splitRunner(name)
		l.fail(path, "unknown runner %q: there is no %s of that version or an older one; known: %s", name, distro, strings.Join(l.ix.Names("Runner"), ", "))
		return r, nil
	}
	return r, err
}

// addPipeline starts a pipeline; the name must be new.
func (l *loader) addPipeline(name string, path []any) *Pipeline {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") || strings.ContainsFunc(name, unicode.IsControl) {
		l.fail(below(path, "name"), "a pipeline cannot be named %q: its export is a directory of that name", name)
		return nil
	}
	if l.m.named(name) != nil {
		l.fail(below(path, "name"), "there is another pipeline named %q", name)
		return nil
	}
	p := &Pipeline{Name: name}
	l.m.Pipelines = append(l.m.Pipelines, p)
	return p
}

// addStage appends a stage to the pipeline; seal computes its id when its
// inputs and mounts are known.
func (l *loader) addStage(p *Pipeline, m *Module, options any) *Stage {
	s := &Stage{Name: m.Name, Module: m, Pipeline: p, Index: len(p.Stages), Options: raw(options), SourceEpoch: p.SourceEpoch}
	p.Stages = append(p.Stages, s)
	return s
}

// flaw notes what keeps a stage from being run, but not from being described:
// osbuild finds it out when it builds.
func (l *loader) flaw(s *Stage, path []any, format string, args ...any) {
	s.flaws = append(s.flaws, l.located(Fault{Path: path, Message: fmt.Sprintf(format, args...)}))
}

// seal computes the stage's id (osbuild/pipeline.py, Stage.id).
func seal(s *Stage, options any) {
	var build, base any
	if p := s.Pipeline; p.buildID != nil {
		build = *p.buildID
	}
	if s.Index > 0 {
		base = s.Pipeline.Stages[s.Index-1].ID
	}
	parts := []any{s.Name, build, base, orEmpty(options)}
	if s.SourceEpoch != nil {
		parts = append(parts, *s.SourceEpoch)
	}
	if len(s.Inputs) > 0 {
		ids := map[string]any{}
		for _, in := range s.Inputs {
			ids[in.Name] = in.id
		}
		parts = append(parts, ids)
	}
	if len(s.Mounts) > 0 {
		ids := []any{}
		for _, mnt := range s.Mounts {
			ids = append(ids, mnt.id)
		}
		parts = append(parts, ids)
	}
	s.ID = hash(parts...)
}

// refer sets what the input refers to, with the options of each, and its id.
func (in *Input) refer(refs *pyjson.Object, options any) {
	in.Refs, in.order, in.Options = map[string]json.RawMessage{}, refs.Keys, raw(options)
	all := pyjson.NewObject()
	for _, ref := range refs.Keys {
		all.Set(ref, orEmpty(refs.Get(ref)))
		in.Refs[ref] = raw(refs.Get(ref))
	}
	in.id = hash(in.Module.Name, in.Origin, all, orEmpty(options))
}

// treeRef is how an input refers to what a pipeline makes: by its id, which
// without stages is null.
func treeRef(p *Pipeline) string {
	if id := p.ID(); id != "" {
		return id
	}
	return "null"
}

// useTree notes that a stage needs the tree of a pipeline.
func (l *loader) useTree(s *Stage, in *Input, p *Pipeline, path []any) {
	switch {
	case p == s.Pipeline:
		l.flaw(s, path, "pipeline %q cannot be an input of itself", p.Name)
	case len(p.Stages) == 0:
		l.flaw(s, path, "pipeline %q has no stages and so no tree", p.Name)
	default:
		in.Pipelines = append(in.Pipelines, p)
	}
}

// hash is sha256 over the JSON texts of the parts, as osbuild's ids are made.
func hash(parts ...any) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(pyjson.Dumps(p, true))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// orEmpty is an empty object for a value that is absent or false, as Python's
// "options or {}".
func orEmpty(v any) any {
	if !truthy(v) {
		return pyjson.NewObject()
	}
	return v
}

// truthy says whether Python takes a value for true.
func truthy(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case json.Number:
		return !isZero(v)
	case []any:
		return len(v) > 0
	case *pyjson.Object:
		return len(v.Keys) > 0
	}
	return true
}

func isZero(n json.Number) bool {
	f, err := n.Float64()
	return err == nil && f == 0
}

// raw keeps a value as JSON text with its keys in their order.
func raw(v any) json.RawMessage { return pyjson.Dumps(orEmpty(v), false) }

func str(o *pyjson.Object, key string) string {
	s, _ := o.Get(key).(string)
	return s
}

func obj(o *pyjson.Object, key string) *pyjson.Object {
	if v, ok := o.Get(key).(*pyjson.Object); ok {
		return v
	}
	return pyjson.NewObject()
}

func list(o *pyjson.Object, key string) []any {
	v, _ := o.Get(key).([]any)
	return v
}
