package pipeline

import (
	"bytes"
	"encoding/json"
)

// Describe writes the manifest with all ids, as osbuild --inspect does
// (osbuild/formats, describe with ids).
func Describe(m *Manifest) ([]byte, error) {
	if m.Version == "1" {
		return json.Marshal(describe1(m))
	}
	return json.Marshal(describe2(m))
}

// present says whether a JSON value is worth describing: neither absent nor
// empty.
func present(v json.RawMessage) bool {
	v = bytes.TrimSpace(v)
	return len(v) > 0 && !bytes.Equal(v, []byte("{}")) && !bytes.Equal(v, []byte("null"))
}

func describe2(m *Manifest) map[string]any {
	runners := map[string]string{} // by id: pipelines with the same tree share it
	for _, p := range m.Pipelines {
		if p.Build != nil {
			runners[p.Build.ID()] = p.Runner.Name
		}
	}
	pipelines := []any{}
	for _, p := range m.Pipelines {
		d := map[string]any{"name": p.Name}
		if p.Build != nil {
			d["build"] = p.Build.ID()
		}
		if r, ok := runners[p.ID()]; ok {
			d["runner"] = r
		}
		var stages []any
		for _, s := range p.Stages {
			stages = append(stages, describeStage2(s))
		}
		if stages != nil {
			d["stages"] = stages
		}
		pipelines = append(pipelines, d)
	}
	out := map[string]any{"version": m.Version, "pipelines": pipelines}
	if present(m.Metadata) {
		out["metadata"] = m.Metadata
	}
	if len(m.Sources) > 0 {
		sources := map[string]any{}
		for _, s := range m.Sources {
			sources[s.Name] = map[string]any{"items": s.items}
		}
		out["sources"] = sources
	}
	return out
}

func describeStage2(s *Stage) map[string]any {
	d := map[string]any{"type": s.Name, "id": s.ID}
	if present(s.Options) {
		d["options"] = s.Options
	}
	if len(s.Devices) > 0 {
		devices := map[string]any{}
		for _, dev := range s.Devices {
			e := map[string]any{"type": dev.Module.Name}
			if present(dev.Options) {
				e["options"] = dev.Options
			}
			devices[dev.Name] = e
		}
		d["devices"] = devices
	}
	if len(s.Mounts) > 0 {
		var mounts []any
		for _, mnt := range s.Mounts {
			var target any
			if !mnt.noTarget {
				target = mnt.Target
			}
			e := map[string]any{"name": mnt.Name, "type": mnt.Module.Name, "target": target}
			if mnt.Device != nil {
				e["source"] = mnt.Device.Name
			}
			if present(mnt.Options) {
				e["options"] = mnt.Options
			}
			if mnt.Partition != nil && !isZero(*mnt.Partition) {
				e["partition"] = *mnt.Partition
			}
			mounts = append(mounts, e)
		}
		d["mounts"] = mounts
	}
	if len(s.Inputs) > 0 {
		inputs := map[string]any{}
		for _, in := range s.Inputs {
			e := map[string]any{"type": in.Module.Name, "origin": in.Origin}
			if present(in.Options) {
				e["options"] = in.Options
			}
			if len(in.Refs) > 0 {
				e["references"] = in.Refs
			}
			inputs[in.Name] = e
		}
		d["inputs"] = inputs
	}
	return d
}

func describe1(m *Manifest) map[string]any {
	stage := func(s *Stage) map[string]any {
		d := map[string]any{"name": s.Name, "id": s.ID}
		if present(s.Options) {
			d["options"] = s.Options
		}
		return d
	}
	var pipeline func(p *Pipeline) map[string]any
	pipeline = func(p *Pipeline) map[string]any {
		d := map[string]any{}
		if p.Build != nil {
			d["build"] = map[string]any{"pipeline": pipeline(p.Build), "runner": p.Runner.Name}
		}
		var stages []any
		for _, s := range p.Stages {
			stages = append(stages, stage(s))
		}
		if stages != nil {
			d["stages"] = stages
		}
		return d
	}
	tree := pipeline(m.Pipeline(treePipeline))
	if asm := m.Pipeline(assemblerPipeline); asm != nil {
		tree["assembler"] = stage(asm.Stages[0])
	}
	out := map[string]any{"pipeline": tree}
	if len(m.Sources) > 0 {
		sources := map[string]any{}
		for _, s := range m.Sources {
			name := s.Name
			if name == "org.osbuild.curl" {
				name = "org.osbuild.files"
			}
			sources[name] = s.Options
		}
		out["sources"] = sources
	}
	return out
}
