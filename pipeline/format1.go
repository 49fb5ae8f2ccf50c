package pipeline

import (
	"encoding/json"
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
	if err := l.validate1(); err != nil || len(l.faults) > 0 {
		return err
	}
	sources := obj(l.root, "sources")
	for _, name := range sources.Keys {
		l.source1(name, obj(sources, name))
	}
	desc := obj(l.root, "pipeline")
	tree, err := l.pipeline1(desc, []any{"pipeline"}, 0)
	if err != nil {
		return err
	}
	if asm := obj(desc, "assembler"); len(asm.Keys) > 0 {
		l.assembler1(tree, asm, []any{"pipeline", "assembler"})
	}
	return nil
}

// sourceModule1 is the module of a source of format 1.
func sourceModule1(name string) string {
	if name == "org.osbuild.files" {
		return "org.osbuild.curl"
	}
	return name
}

// itemsKey1 is where sources of format 1 have their items.
var itemsKey1 = map[string]string{
	"org.osbuild.curl": "urls", "org.osbuild.ostree": "commits", "org.osbuild.librepo": "items", "org.osbuild.dnf": "repos",
}

func (l *loader) source1(name string, desc *pyjson.Object) {
	path := []any{"sources", name}
	module := sourceModule1(name)
	key, ok := itemsKey1[module]
	if !ok {
		l.fail(path, "manifests of version 1 have no source %q; known: org.osbuild.curl, org.osbuild.dnf, org.osbuild.files, org.osbuild.librepo, org.osbuild.ostree", name)
		return
	}
	m := l.module("Source", module, path, path)
	if m == nil {
		return
	}
	items, ok := desc.Get(key).(*pyjson.Object)
	if !ok {
		l.fail(path, "%q is missing", key)
		return
	}
	s := &Source{Name: module, Module: m, Items: map[string]json.RawMessage{}, Options: raw(desc), items: raw(items)}
	for _, k := range items.Keys {
		s.Items[k] = raw(items.Get(k))
	}
	l.m.Sources = append(l.m.Sources, s)
}

func (l *loader) pipeline1(desc *pyjson.Object, path []any, depth int) (*Pipeline, error) {
	var build *Pipeline
	runner, err := l.hostRunner()
	if err != nil {
		return nil, err
	}
	if b := obj(desc, "build"); len(b.Keys) > 0 {
		if inner := obj(b, "pipeline"); len(inner.Keys) > 0 {
			if build, err = l.pipeline1(inner, below(path, "build", "pipeline"), depth+1); err != nil {
				return nil, err
			}
		}
		if runner, err = l.runner(str(b, "runner"), below(path, "build", "runner")); err != nil {
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
		l.stage1(p, v.(*pyjson.Object), below(path, "stages", i))
	}
	return p, nil
}

func (l *loader) stage1(p *Pipeline, desc *pyjson.Object, path []any) {
	m := l.module("Stage", str(desc, "name"), path, path)
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
	packages, ok := options.Get("packages").([]any)
	if !ok {
		l.fail(below(path, "options"), "%q is missing", "packages")
		return
	}
	refs := pyjson.NewObject()
	for i, v := range packages {
		var opts any
		if pkg, ok := v.(*pyjson.Object); ok {
			if gpg := pkg.Get("check_gpg"); truthy(gpg) {
				opts = pyjson.NewObject("metadata", pyjson.NewObject("rpm.check_gpg", gpg))
			}
			v = pkg.Get("checksum")
		}
		checksum, ok := v.(string)
		if !ok {
			l.fail(below(path, "options", "packages", i), "must be a checksum, or an object that has one")
			continue
		}
		refs.Set(checksum, opts)
	}
	l.addInput1(s, "packages", "org.osbuild.files", originSource, refs, path)
}

// ostreeInput1 makes the commit of the stage an input.
func (l *loader) ostreeInput1(s *Stage, options *pyjson.Object, path []any) {
	commit, ok := options.Get("commit").(string)
	if !ok {
		l.fail(below(path, "options"), "%q is missing", "commit")
		return
	}
	var opts any
	if ref := options.Get("ref"); truthy(ref) {
		opts = pyjson.NewObject("ref", ref)
	}
	l.addInput1(s, "commits", "org.osbuild.ostree", originSource, pyjson.NewObject(commit, opts), path)
}

func (l *loader) addInput1(s *Stage, name, module, origin string, refs *pyjson.Object, path []any) *Input {
	m := l.module("Input", module, path, path)
	if m == nil {
		return nil
	}
	in := &Input{Name: name, Module: m, Origin: origin}
	s.Inputs = append(s.Inputs, in)
	in.refer(refs, nil)
	for _, ref := range refs.Keys {
		if origin == originSource && !l.sourceless && !l.hasItem(ref) {
			l.flaw(s, path, "%q is in none of the manifest's sources", ref)
		}
	}
	return in
}

func (l *loader) assembler1(tree *Pipeline, desc *pyjson.Object, path []any) {
	m := l.module("Assembler", str(desc, "name"), path, path)
	if m == nil {
		return
	}
	p := l.addPipeline(assemblerPipeline, path)
	p.Build, p.buildID, p.Runner = tree.Build, tree.buildID, tree.Runner
	s := l.addStage(p, m, desc.Get("options"))
	refs := pyjson.NewObject(treeRef(tree), nil)
	if in := l.addInput1(s, "tree", "org.osbuild.tree", originPipeline, refs, path); in != nil {
		l.useTree(s, in, tree, path)
	}
	seal(s, desc.Get("options"))
}
