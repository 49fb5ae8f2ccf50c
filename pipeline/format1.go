package pipeline

import (
	"encoding/json"
	"errors"
	"io/fs"
	"strings"

	"github.com/ossify/ossify/pyjson"
)

// Names that format 1 gives to its pipelines (osbuild/formats/v1.py).
const (
	treePipeline      = "tree"
	assemblerPipeline = "assembler"
	buildPipeline     = "build"
)

// format1 loads a manifest of format 1 into the plan of format 2: the pipeline
// is "tree", nested builds are "build", "build-build", ..., and the assembler
// becomes a pipeline whose one stage has the tree as its input.
func (l *loader) format1() error {
	if ok, err := l.checkManifest(); !ok || err != nil {
		return err
	}
	sources := obj(l.root, "sources")
	for _, name := range sources.Keys {
		l.source1(name, obj(sources, name))
	}
	desc := obj(l.root, "pipeline")
	tree, err := l.pipeline1(desc, []any{"pipeline"}, 0)
	if err != nil || tree == nil {
		return err
	}
	if asm, ok := desc.Get("assembler").(*pyjson.Object); ok {
		l.assembler1(tree, asm, []any{"pipeline", "assembler"})
	}
	return nil
}

func (l *loader) source1(name string, desc *pyjson.Object) {
	path := []any{"sources", name}
	module, items := name, "items"
	switch name {
	case "org.osbuild.files", "org.osbuild.curl":
		module, items = "org.osbuild.curl", "urls"
	case "org.osbuild.ostree":
		items = "commits"
	case "org.osbuild.librepo":
	default:
		l.fail(path, "manifests of version 1 have no source %q; known: org.osbuild.curl, org.osbuild.files, org.osbuild.librepo, org.osbuild.ostree", name)
		return
	}
	m := l.checkModule("Source", module, "1", desc, path, []any{"sources", module})
	if m == nil {
		return
	}
	if _, ok := desc.Get(items).(*pyjson.Object); !ok {
		l.fail(path, "%q is missing", items)
		return
	}
	s := &Source{Name: module, Module: m, Items: map[string]json.RawMessage{}, Options: raw(desc), items: raw(desc.Get(items))}
	content := obj(desc, items)
	for _, k := range content.Keys {
		s.Items[k] = raw(content.Get(k))
	}
	l.m.Sources = append(l.m.Sources, s)
}

func (l *loader) pipeline1(desc *pyjson.Object, path []any, depth int) (*Pipeline, error) {
	var build *Pipeline
	runner, err := l.hostRunner()
	if err != nil {
		return nil, err
	}
	if b, ok := desc.Get("build").(*pyjson.Object); ok && len(b.Keys) > 0 {
		if inner := obj(b, "pipeline"); len(inner.Keys) > 0 {
			// A build's assembler is checked, but nobody would use what it makes.
			if asm, ok := inner.Get("assembler").(*pyjson.Object); ok && len(asm.Keys) > 0 {
				at := append(append([]any(nil), path...), "build", "pipeline", "assembler")
				l.checkModule("Assembler", str(asm, "name"), "1", asm, at, at)
			}
			if build, err = l.pipeline1(inner, append(append([]any(nil), path...), "build", "pipeline"), depth+1); err != nil {
				return nil, err
			}
		}
		if runner, err = l.ix.Runner(str(b, "runner")); errors.Is(err, fs.ErrNotExist) {
			l.fail(append(append([]any(nil), path...), "build", "runner"), "%v", err)
		} else if err != nil {
			return nil, err
		}
	}
	name := treePipeline
	if depth > 0 {
		name = strings.TrimSuffix(strings.Repeat(buildPipeline+"-", depth), "-")
	}
	p := l.addPipeline(name, path)
	if build != nil && len(build.Stages) > 0 {
		id := build.ID()
		p.Build, p.buildID = build, &id
	}
	p.Runner = runner
	for i, v := range list(desc, "stages") {
		l.stage1(p, v.(*pyjson.Object), append(append([]any(nil), path...), "stages", i))
	}
	return p, nil
}

func (l *loader) stage1(p *Pipeline, desc *pyjson.Object, path []any) {
	m := l.checkModule("Stage", str(desc, "name"), "1", desc, path, path)
	if m == nil {
		return
	}
	s := l.addStage(p, m, desc.Get("options"))
	switch m.Name {
	case "org.osbuild.rpm":
		l.rpmInput1(s, obj(desc, "options"), path)
	case "org.osbuild.ostree":
		l.ostreeInput1(s, obj(desc, "options"), path)
	}
	seal(s, desc.Get("options"))
}

// rpmInput1 makes the stage's list of packages an input, which format 1 does
// not have.
func (l *loader) rpmInput1(s *Stage, options *pyjson.Object, path []any) {
	refs := pyjson.NewObject()
	for _, v := range list(options, "packages") {
		switch v := v.(type) {
		case string:
			refs.Set(v, nil)
		case *pyjson.Object:
			var opts any
			if gpg := v.Get("check_gpg"); truthy(gpg) {
				meta, member := pyjson.NewObject(), pyjson.NewObject()
				member.Set("rpm.check_gpg", gpg)
				meta.Set("metadata", member)
				opts = meta
			}
			refs.Set(str(v, "checksum"), opts)
		}
	}
	l.addInput1(s, "packages", "org.osbuild.files", originSource, refs, path)
}

// ostreeInput1 makes the commit of the stage an input.
func (l *loader) ostreeInput1(s *Stage, options *pyjson.Object, path []any) {
	var opts any
	if ref := str(options, "ref"); ref != "" {
		named := pyjson.NewObject()
		named.Set("ref", ref)
		opts = named
	}
	refs := pyjson.NewObject()
	refs.Set(str(options, "commit"), opts)
	l.addInput1(s, "commits", "org.osbuild.ostree", originSource, refs, path)
}

func (l *loader) addInput1(s *Stage, name, module, origin string, refs *pyjson.Object, path []any) *Input {
	m := l.module("Input", module, path, path)
	if m == nil {
		return nil
	}
	in := &Input{Name: name, Module: m, Origin: origin, Refs: map[string]json.RawMessage{}, Options: raw(nil)}
	resolved := pyjson.NewObject()
	for _, ref := range refs.Keys {
		if origin == originSource && !l.hasItem(ref) {
			l.fail(path, "%q is in none of the manifest's sources", ref)
		}
		resolved.Set(ref, orEmpty(refs.Get(ref)))
		in.order = append(in.order, ref)
		in.Refs[ref] = raw(refs.Get(ref))
	}
	in.id = hash(m.Name, origin, resolved, pyjson.NewObject())
	s.Inputs = append(s.Inputs, in)
	return in
}

func (l *loader) assembler1(tree *Pipeline, desc *pyjson.Object, path []any) {
	m := l.checkModule("Assembler", str(desc, "name"), "1", desc, path, path)
	if m == nil {
		return
	}
	if len(tree.Stages) == 0 {
		l.fail(path, "there is no tree to assemble: the pipeline has no stages")
		return
	}
	p := l.addPipeline(assemblerPipeline, path)
	p.Build, p.buildID, p.Runner = tree.Build, tree.buildID, tree.Runner
	s := l.addStage(p, m, desc.Get("options"))
	refs := pyjson.NewObject()
	refs.Set(tree.ID(), nil)
	if in := l.addInput1(s, "tree", "org.osbuild.tree", originPipeline, refs, path); in != nil {
		in.Pipelines = []*Pipeline{tree}
	}
	seal(s, desc.Get("options"))
}
