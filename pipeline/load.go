package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"

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
			Faults: []Fault{{Message: "not JSON: " + syntax.Reason}}}
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
			c.finite(v.Values[k], append(path[:len(path):len(path)], k))
		}
	case []any:
		for i, item := range v {
			c.finite(item, append(path[:len(path):len(path)], i))
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

// checkManifest checks the document as a whole; nothing else of it can be
// trusted if that fails.
func (l *loader) checkManifest() (bool, error) {
	s, err := l.ix.manifestSchema(l.m.Version)
	if err != nil {
		return false, err
	}
	before := len(l.faults)
	l.check(s, l.root, nil, nil)
	return len(l.faults) == before, nil
}

// addPipeline starts a pipeline; the name must be new.
func (l *loader) addPipeline(name string, path []any) *Pipeline {
	for _, p := range l.m.Pipelines {
		if p.Name == name {
			l.fail(append(path, "name"), "there is another pipeline named %q", name)
			return nil
		}
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

// integer reads a number; 1.0 is one, too.
func integer(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return i, true
	}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil || f != float64(int64(f)) {
		return 0, false
	}
	return int64(f), true
}
