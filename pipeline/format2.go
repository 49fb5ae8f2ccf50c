package pipeline

import (
	"encoding/json"
	"errors"
	"io/fs"
	"strings"

	"github.com/ossify/ossify/pyjson"
)

const refName = "name:"

// format2 loads a manifest of format 2 (osbuild/formats/v2.py).
func (l *loader) format2() error {
	if ok, err := l.checkManifest(); !ok || err != nil {
		return err
	}
	if meta, ok := l.root.Get("metadata").(*pyjson.Object); ok && len(meta.Keys) > 0 {
		l.m.Metadata = raw(meta)
	}
	sources := obj(l.root, "sources")
	for _, name := range sources.Keys {
		l.source2(name, obj(sources, name))
	}
	for i, v := range list(l.root, "pipelines") {
		if err := l.pipeline2(v.(*pyjson.Object), []any{"pipelines", i}); err != nil {
			return err
		}
	}
	return l.pairRunners()
}

// pairRunners gives each pipeline the runner that its build pipeline names:
// what the manifest calls a pipeline's runner is for those that have it as
// build root. Of pipelines with the same tree the last one's counts.
func (l *loader) pairRunners() error {
	runners := map[string]Runner{}
	for _, p := range l.m.Pipelines {
		if id := p.ID(); id != "" {
			runners[id] = p.Runner
		}
	}
	for i, p := range l.m.Pipelines {
		if p.buildID == nil || *p.buildID == "" {
			var err error
			if p.Runner, err = l.hostRunner(); err != nil {
				return err
			}
			continue
		}
		if p.Build == nil {
			p.Build = l.m.byID(*p.buildID)
		}
		if p.Build == nil {
			l.fail([]any{"pipelines", i, "build"}, "unknown build pipeline %q%s; a build pipeline is written as name: and its name", *p.buildID, didYouMean(*p.buildID, l.names()))
			continue
		}
		p.Runner = runners[*p.buildID]
	}
	return nil
}

func (l *loader) source2(name string, desc *pyjson.Object) {
	path := []any{"sources", name}
	m := l.checkModule("Source", name, "2", desc, path, path)
	if m == nil {
		l.sourceless = true
		return
	}
	s := &Source{Name: name, Module: m, Items: map[string]json.RawMessage{}, Options: raw(desc.Get("options")), items: raw(desc.Get("items"))}
	if items, ok := desc.Get("items").(*pyjson.Object); ok {
		for _, k := range items.Keys {
			s.Items[k] = raw(items.Get(k))
		}
	}
	l.m.Sources = append(l.m.Sources, s)
}

func (l *loader) pipeline2(desc *pyjson.Object, path []any) error {
	name, ok := desc.Get("name").(string)
	if !ok {
		l.fail(path, "the pipeline has no name")
		return nil
	}
	var build *Pipeline
	var buildID *string
	ref, hasBuild := desc.Get("build").(string)
	if target, named := strings.CutPrefix(ref, refName); named {
		if build = l.m.named(target); build == nil {
			l.fail(append(path, "build"), "unknown build pipeline %q%s; a build pipeline stands before its users", ref, didYouMean(target, l.names()))
		} else if id := build.ID(); id != "" {
			buildID = &id
		} else {
			build = nil // without stages it has no tree, and the host builds
		}
	} else if hasBuild {
		buildID = &ref // an id, which may be that of a later pipeline
	}
	p := l.addPipeline(name, path)
	if p == nil {
		return nil
	}
	p.Build, p.buildID = build, buildID
	if v, ok := desc.Values["source-epoch"]; ok && v != nil {
		epoch, ok := integer(v)
		if !ok {
			l.fail(append(path, "source-epoch"), "must be a number of seconds")
		}
		p.SourceEpoch = &epoch
	}
	var err error
	if runner := str(desc, "runner"); runner != "" {
		p.Runner, err = l.ix.Runner(runner)
	} else {
		p.Runner, err = l.hostRunner()
	}
	if errors.Is(err, fs.ErrNotExist) {
		l.fail(append(path, "runner"), "%v; known runners: %s", err, strings.Join(l.ix.Names("Runner"), ", "))
	} else if err != nil {
		return err
	}
	for i, v := range list(desc, "stages") {
		l.stage2(p, v.(*pyjson.Object), append(append([]any(nil), path...), "stages", i))
	}
	return nil
}

func (l *loader) names() []string {
	var names []string
	for _, p := range l.m.Pipelines {
		names = append(names, p.Name)
	}
	return names
}

func (l *loader) stage2(p *Pipeline, desc *pyjson.Object, path []any) {
	m := l.checkModule("Stage", str(desc, "type"), "2", desc, path, path)
	if m == nil {
		m = &Module{Class: "Stage", Name: str(desc, "type")}
	}
	s := l.addStage(p, m, desc.Get("options"))
	devices := obj(desc, "devices")
	for _, name := range sortDevices(devices) {
		l.device2(s, name, obj(devices, name), append(append([]any(nil), path...), "devices", name))
	}
	if len(s.Devices) < len(devices.Keys) {
		l.fail(append(path, "devices"), "parents of devices are missing or form a circle")
	}
	inputs := obj(desc, "inputs")
	for _, name := range inputs.Keys {
		l.input2(s, name, obj(inputs, name), append(append([]any(nil), path...), "inputs", name))
	}
	for i, v := range list(desc, "mounts") {
		l.mount2(s, v.(*pyjson.Object), append(append([]any(nil), path...), "mounts", i))
	}
	seal(s, desc.Get("options"))
}

// sortDevices lists devices so that parents come before their children; what
// is part of a circle, or has no parent that exists, is left out.
func sortDevices(devices *pyjson.Object) []string {
	var order []string
	placed := map[string]bool{}
	for again := true; again; {
		again = false
		for _, name := range devices.Keys {
			parent := str(obj(devices, name), "parent")
			if !placed[name] && (parent == "" || placed[parent]) {
				placed[name], again = true, true
				order = append(order, name)
			}
		}
	}
	return order
}

func (l *loader) device2(s *Stage, name string, desc *pyjson.Object, path []any) {
	m := l.checkModule("Device", str(desc, "type"), "2", desc, path, path)
	if m == nil {
		m = &Module{Class: "Device", Name: str(desc, "type")}
	}
	d := &Device{Name: name, Module: m, Options: raw(desc.Get("options"))}
	parts := []any{m.Name}
	if parent := str(desc, "parent"); parent != "" {
		for _, other := range s.Devices {
			if other.Name == parent {
				d.Parent = other
				parts = append(parts, other.id)
			}
		}
	}
	d.id = hash(append(parts, orEmpty(desc.Get("options")))...)
	s.Devices = append(s.Devices, d)
}

func (l *loader) input2(s *Stage, name string, desc *pyjson.Object, path []any) {
	m := l.checkModule("Input", str(desc, "type"), "2", desc, path, path)
	if m == nil {
		return
	}
	in := &Input{Name: name, Module: m, Origin: str(desc, "origin"), Refs: map[string]json.RawMessage{}, Options: raw(desc.Get("options"))}
	refs := pyjson.NewObject()
	switch v := desc.Get("references").(type) {
	case *pyjson.Object:
		refs = v
	case []any:
		for _, item := range v {
			switch item := item.(type) {
			case string:
				refs.Set(item, nil)
			case *pyjson.Object:
				refs.Set(str(item, "id"), item.Get("options"))
			}
		}
	}
	resolved := pyjson.NewObject()
	for _, ref := range refs.Keys {
		id := ref
		if in.Origin == originPipeline {
			if !strings.HasPrefix(ref, refName) {
				continue // osbuild leaves them out, too
			}
			p := l.m.named(ref[len(refName):])
			if p == nil || p == s.Pipeline {
				l.fail(append(path, "references"), "unknown pipeline %q%s; an input's pipeline stands before its users", ref, didYouMean(ref[len(refName):], l.names()))
				continue
			}
			if len(p.Stages) == 0 {
				l.fail(append(path, "references"), "pipeline %q has no stages and so no tree", p.Name)
				continue
			}
			in.Pipelines = append(in.Pipelines, p)
			id = p.ID()
		} else if !l.sourceless && !l.hasItem(ref) {
			l.fail(append(path, "references"), "%q is in none of the manifest's sources", ref)
		}
		resolved.Set(id, orEmpty(refs.Get(ref)))
	}
	for _, id := range resolved.Keys {
		in.order = append(in.order, id)
		in.Refs[id] = raw(resolved.Get(id))
	}
	in.id = hash(m.Name, in.Origin, resolved, orEmpty(desc.Get("options")))
	s.Inputs = append(s.Inputs, in)
}

func (l *loader) hasItem(ref string) bool {
	for _, s := range l.m.Sources {
		if _, ok := s.Items[ref]; ok {
			return true
		}
	}
	return false
}

func (l *loader) mount2(s *Stage, desc *pyjson.Object, path []any) {
	// osbuild calls a mount by its name, not by its place in the list.
	as := append(append([]any(nil), path[:len(path)-1]...), str(desc, "name"))
	m := l.checkModule("Mount", str(desc, "type"), "2", desc, path, as)
	if m == nil {
		m = &Module{Class: "Mount", Name: str(desc, "type")}
	}
	mnt := &Mount{Name: str(desc, "name"), Module: m, Target: str(desc, "target"), Options: raw(desc.Get("options"))}
	mnt.noTarget = desc.Get("target") == nil
	for _, other := range s.Mounts {
		if other.Name == mnt.Name {
			l.fail(append(path, "name"), "there is another mount named %q", mnt.Name)
		}
	}
	parts := []any{m.Name}
	if source := str(desc, "source"); source != "" {
		for _, d := range s.Devices {
			if d.Name == source {
				mnt.Device = d
				parts = append(parts, d.id)
			}
		}
		if mnt.Device == nil {
			l.fail(append(path, "source"), "unknown device %q", source)
		}
	}
	if n, ok := desc.Get("partition").(json.Number); ok {
		mnt.Partition = &n
		if _, isInt := integer(n); !isInt {
			l.fail(append(path, "partition"), "must be a whole number")
		}
		if !isZero(n) {
			parts = append(parts, n)
		}
	}
	if mnt.Target != "" {
		parts = append(parts, mnt.Target)
	}
	mnt.id = hash(append(parts, orEmpty(desc.Get("options")))...)
	s.Mounts = append(s.Mounts, mnt)
}
