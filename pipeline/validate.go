package pipeline

import (
	"github.com/ossify/ossify/pyjson"
)

// A manifest is checked as a whole and module by module before anything of it
// is resolved, and as far as its form allows after a fault, as osbuild does
// (osbuild/formats, validate). Where a fault of form makes osbuild give up, the
// manifest's own schema has noted it, or it is noted here.

// checkManifest checks the document against the schema of its version.
func (l *loader) checkManifest() error {
	s, err := l.ix.manifestSchema(l.m.Version)
	if err != nil {
		return err
	}
	l.check(s, l.root, nil, nil)
	return nil
}

// validate1 checks a manifest of format 1: modules of the pipeline and of those
// that build it, then the sources.
func (l *loader) validate1() error {
	if err := l.checkManifest(); err != nil {
		return err
	}
	path := []any{"pipeline"}
	for desc := obj(l.root, "pipeline"); len(desc.Keys) > 0; desc = obj(obj(desc, "build"), "pipeline") {
		for i, v := range list(desc, "stages") {
			at := below(path, "stages", i)
			l.checkNamed("Stage", "name", v, at, at)
		}
		if asm := desc.Get("assembler"); truthy(asm) {
			at := below(path, "assembler")
			l.checkNamed("Assembler", "name", asm, at, at)
		}
		path = below(path, "build", "pipeline")
	}
	sources := obj(l.root, "sources")
	for _, name := range sources.Keys {
		module := sourceModule1(name)
		l.checkModule("Source", module, "1", sources.Get(name), []any{"sources", name}, []any{"sources", module})
	}
	return nil
}

// validate2 checks a manifest of format 2: sources, then all modules of stages.
func (l *loader) validate2() error {
	if err := l.checkManifest(); err != nil {
		return err
	}
	sources := obj(l.root, "sources")
	for _, name := range sources.Keys {
		path := []any{"sources", name}
		l.checkModule("Source", name, "2", sources.Get(name), path, path)
	}
	for i, v := range list(l.root, "pipelines") {
		pipeline, ok := v.(*pyjson.Object)
		if !ok {
			continue
		}
		for j, v := range list(pipeline, "stages") {
			path := []any{"pipelines", i, "stages", j}
			l.checkNamed("Stage", "type", v, path, path)
			for _, g := range stageGroups {
				l.checkGroup(g, v, path)
			}
		}
	}
	return nil
}

// group is a kind of what a stage has besides its options, and its key.
type group struct{ class, key string }

var stageGroups = []group{{"Device", "devices"}, {"Input", "inputs"}, {"Mount", "mounts"}}

// checkGroup checks a stage's devices, inputs or mounts. osbuild calls those of
// a list by their names, and of the same name it checks the last.
func (l *loader) checkGroup(g group, stage any, path []any) {
	desc, ok := stage.(*pyjson.Object)
	if !ok {
		return
	}
	path = below(path, g.key)
	switch v := desc.Get(g.key).(type) {
	case *pyjson.Object:
		for _, name := range v.Keys {
			at := below(path, name)
			l.checkNamed(g.class, "type", v.Get(name), at, at)
		}
	case []any:
		last := map[string]int{}
		for i, item := range v {
			if o, ok := item.(*pyjson.Object); ok {
				last[jsonText(o.Get("name"))] = i
			}
		}
		for i, item := range v {
			o, ok := item.(*pyjson.Object)
			if !ok {
				l.mustBe("an object", below(path, i))
			} else if name := o.Get("name"); last[jsonText(name)] == i {
				l.checkNamed(g.class, "type", item, below(path, i), below(path, name))
			}
		}
	default:
		if desc.Has(g.key) {
			l.mustBe("an object", path)
		}
	}
}

// checkNamed checks the use of a module that is named by the member key. That
// there is one is for the manifest's schema to see; an empty name is left for
// when the module is looked up.
func (l *loader) checkNamed(class, key string, v any, path, as []any) {
	desc, ok := v.(*pyjson.Object)
	if !ok {
		l.mustBe("an object", path)
		return
	}
	name := str(desc, key)
	if name == "" {
		return
	}
	l.checkModule(class, name, l.m.Version, desc, path, as)
}

// mustBe notes a fault of form, unless the schema has.
func (l *loader) mustBe(what string, path []any) {
	id := Fault{Path: path}.ID()
	for _, f := range l.faults {
		if f.ID() == id {
			return
		}
	}
	l.fail(path, "must be %s", what)
}
