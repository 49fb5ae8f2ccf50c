package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ossify/ossify/pyjson"
)

const refName = "name:"

// format2 loads a manifest of format 2 (osbuild/formats/v2.py).
func (l *loader) format2() error {
	if err := l.validate2(); err != nil || len(l.faults) > 0 {
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
			msg := fmt.Sprintf("no pipeline has the id %q", *p.buildID)
			if l.m.named(*p.buildID) != nil {
				msg += fmt.Sprintf("; did you mean %q?", refName+*p.buildID)
			}
			l.fail([]any{"pipelines", i, "build"}, "%s", msg)
			continue
		}
		p.Runner = runners[*p.buildID]
	}
	return nil
}

func (l *loader) source2(name string, desc *pyjson.Object) {
	path := []any{"sources", name}
	m := l.module("Source", name, path, path)
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
		l.fail(path, "the pipeline has no name, which is a string")
		return nil
	}
	var build *Pipeline
	var buildID *string
	ref, hasBuild := desc.Get("build").(string)
	if target, named := strings.CutPrefix(ref, refName); named {
		if build = l.m.named(target); build == nil {
			l.fail(below(path, "build"), "unknown build pipeline %q%s; a build pipeline stands before its users", ref, didYouMean(target, l.names()))
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
	if v := desc.Get("source-epoch"); v != nil {
		epoch, err := strconv.ParseInt(string(v.(json.Number)), 10, 64)
		if err != nil {
			l.fail(below(path, "source-epoch"), "%s is no time in seconds", jsonText(v))
		}
		p.SourceEpoch = &epoch
	}
	var err error
	if runner := str(desc, "runner"); runner != "" {
		p.Runner, err = l.runner(runner, below(path, "runner"))
	} else {
		p.Runner, err = l.hostRunner()
	}
	if err != nil {
		return err
	}
	for i, v := range list(desc, "stages") {
		l.stage2(p, v.(*pyjson.Object), below(path, "stages", i))
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
	m := l.module("Stage", str(desc, "type"), path, path)
	if m == nil {
		return
	}
	s := l.addStage(p, m, desc.Get("options"))
	devices := obj(desc, "devices")
	order := sortDevices(devices)
	for _, name := range order {
		l.device2(s, name, obj(devices, name), below(path, "devices", name))
	}
	for _, name := range devices.Keys {
		if parent := str(obj(devices, name), "parent"); parent != "" && !devices.Has(parent) {
			l.fail(below(path, "devices", name, "parent"), "unknown device %q%s", parent, didYouMean(parent, devices.Keys))
		} else if !slices.Contains(order, name) {
			l.fail(below(path, "devices", name, "parent"), "the device %q is below itself, or below a device that is", name)
		}
	}
	inputs := obj(desc, "inputs")
	for _, name := range inputs.Keys {
		l.input2(s, name, obj(inputs, name), desc.Get("options"), below(path, "inputs", name))
	}
	for i, v := range list(desc, "mounts") {
		l.mount2(s, v.(*pyjson.Object), below(path, "mounts", i))
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
	m := l.module("Device", str(desc, "type"), path, path)
	if m == nil {
		return
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

func (l *loader) input2(s *Stage, name string, desc *pyjson.Object, stageOptions any, path []any) {
	m := l.module("Input", str(desc, "type"), path, path)
	if m == nil {
		return
	}
	in := &Input{Name: name, Module: m, Origin: str(desc, "origin")}
	s.Inputs = append(s.Inputs, in)
	in.refer(pyjson.NewObject(), desc.Get("options"))
	refs := references(desc.Get("references"))
	if in.Origin == originPipeline {
		seal(s, stageOptions) // the pipeline may refer to itself, as it is by now
		refs = l.trees(s, in, refs, below(path, "references"))
	} else {
		for _, ref := range refs.Keys {
			if !l.sourceless && !l.hasItem(ref) {
				l.fail(below(path, "references"), "%q is in none of the manifest's sources", ref)
			}
		}
	}
	in.refer(refs, desc.Get("options"))
}

// references are what an input refers to, with their options, of any form that
// the manifest's schema allows.
func references(v any) *pyjson.Object {
	refs := pyjson.NewObject()
	switch v := v.(type) {
	case *pyjson.Object:
		return v
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
	return refs
}

// trees turns references to pipelines by name into their ids.
func (l *loader) trees(s *Stage, in *Input, refs *pyjson.Object, path []any) *pyjson.Object {
	ids := pyjson.NewObject()
	for _, ref := range refs.Keys {
		name, named := strings.CutPrefix(ref, refName)
		if !named {
			continue // osbuild leaves them out, too
		}
		p := l.m.named(name)
		if p == nil {
			l.fail(path, "unknown pipeline %q%s; an input's pipeline stands before its users", ref, didYouMean(name, l.names()))
			continue
		}
		l.useTree(s, in, p, path)
		ids.Set(treeRef(p), refs.Get(ref))
	}
	return ids
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
	m := l.module("Mount", str(desc, "type"), path, path)
	if m == nil {
		return
	}
	mnt := &Mount{Name: str(desc, "name"), Module: m, Target: str(desc, "target"), Options: raw(desc.Get("options"))}
	mnt.noTarget = desc.Get("target") == nil
	for _, other := range s.Mounts {
		if other.Name == mnt.Name {
			l.fail(below(path, "name"), "there is another mount named %q", mnt.Name)
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
			l.fail(below(path, "source"), "unknown device %q", source)
		}
	}
	if n, ok := desc.Get("partition").(json.Number); ok {
		mnt.Partition = &n
		if isFloat(n) {
			l.flaw(s, below(path, "partition"), "%s is no number of a partition", n)
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
