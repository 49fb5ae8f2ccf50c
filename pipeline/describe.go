package pipeline

import (
	"bytes"
	"encoding/json"

	"github.com/ossify/ossify/pyjson"
)

// Describe writes the manifest with all ids, as osbuild --inspect does, to the
// byte (osbuild/formats, describe with ids).
func Describe(m *Manifest) []byte {
	if m.Version == "1" {
		return pyjson.Dumps(describe1(m), false)
	}
	return pyjson.Dumps(describe2(m), false)
}

// setPresent sets a member unless its value is absent or empty.
func setPresent(o *pyjson.Object, key string, v json.RawMessage) {
	if v = bytes.TrimSpace(v); len(v) > 0 && !bytes.Equal(v, []byte("{}")) && !bytes.Equal(v, []byte("null")) {
		o.Set(key, v)
	}
}

func describe2(m *Manifest) *pyjson.Object {
	runners := map[string]string{} // by id: pipelines with the same tree share it
	for _, p := range m.Pipelines {
		if p.Build != nil {
			runners[p.Build.ID()] = p.Runner.Name
		}
	}
	pipelines := []any{}
	for _, p := range m.Pipelines {
		d := pyjson.NewObject("name", p.Name)
		if p.Build != nil {
			d.Set("build", p.Build.ID())
		}
		if r, ok := runners[p.ID()]; ok {
			d.Set("runner", r)
		}
		var stages []any
		for _, s := range p.Stages {
			stages = append(stages, describeStage2(s))
		}
		if stages != nil {
			d.Set("stages", stages)
		}
		pipelines = append(pipelines, d)
	}
	out := pyjson.NewObject("version", m.Version, "pipelines", pipelines)
	setPresent(out, "metadata", m.Metadata)
	if len(m.Sources) > 0 {
		sources := pyjson.NewObject()
		for _, s := range m.Sources {
			sources.Set(s.Name, pyjson.NewObject("items", s.items))
		}
		out.Set("sources", sources)
	}
	return out
}

func describeStage2(s *Stage) *pyjson.Object {
	d := pyjson.NewObject("type", s.Name, "id", s.ID)
	setPresent(d, "options", s.Options)
	if len(s.Devices) > 0 {
		devices := pyjson.NewObject()
		for _, dev := range s.Devices {
			e := pyjson.NewObject("type", dev.Module.Name)
			setPresent(e, "options", dev.Options)
			devices.Set(dev.Name, e)
		}
		d.Set("devices", devices)
	}
	if len(s.Mounts) > 0 {
		var mounts []any
		for _, mnt := range s.Mounts {
			mounts = append(mounts, describeMount(mnt))
		}
		d.Set("mounts", mounts)
	}
	if len(s.Inputs) > 0 {
		inputs := pyjson.NewObject()
		for _, in := range s.Inputs {
			e := pyjson.NewObject("type", in.Module.Name, "origin", in.Origin)
			setPresent(e, "options", in.Options)
			if len(in.Refs) > 0 {
				refs := pyjson.NewObject()
				for _, ref := range in.order {
					refs.Set(ref, in.Refs[ref])
				}
				e.Set("references", refs)
			}
			inputs.Set(in.Name, e)
		}
		d.Set("inputs", inputs)
	}
	return d
}

func describeMount(mnt *Mount) *pyjson.Object {
	var target any
	if !mnt.noTarget {
		target = mnt.Target
	}
	e := pyjson.NewObject("name", mnt.Name, "type", mnt.Module.Name, "target", target)
	if mnt.Device != nil {
		e.Set("source", mnt.Device.Name)
	}
	setPresent(e, "options", mnt.Options)
	if mnt.Partition != nil && !isZero(*mnt.Partition) {
		e.Set("partition", *mnt.Partition)
	}
	return e
}

func describe1(m *Manifest) *pyjson.Object {
	tree := describePipeline1(m.Pipeline(treePipeline))
	if asm := m.Pipeline(assemblerPipeline); asm != nil {
		tree.Set("assembler", describeStage1(asm.Stages[0]))
	}
	out := pyjson.NewObject("pipeline", tree)
	if len(m.Sources) > 0 {
		sources := pyjson.NewObject()
		for _, s := range m.Sources {
			name := s.Name
			if name == "org.osbuild.curl" {
				name = "org.osbuild.files"
			}
			sources.Set(name, s.Options)
		}
		out.Set("sources", sources)
	}
	return out
}

func describePipeline1(p *Pipeline) *pyjson.Object {
	d := pyjson.NewObject()
	if p.Build != nil {
		d.Set("build", pyjson.NewObject("pipeline", describePipeline1(p.Build), "runner", p.Runner.Name))
	}
	var stages []any
	for _, s := range p.Stages {
		stages = append(stages, describeStage1(s))
	}
	if stages != nil {
		d.Set("stages", stages)
	}
	return d
}

func describeStage1(s *Stage) *pyjson.Object {
	d := pyjson.NewObject("name", s.Name)
	setPresent(d, "options", s.Options)
	d.Set("id", s.ID)
	return d
}
