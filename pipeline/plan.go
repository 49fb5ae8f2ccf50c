package pipeline

import "encoding/json"

// Manifest is a loaded manifest: checked, with all references resolved.
type Manifest struct {
	// Name is how messages call it, usually its file name.
	Name string
	// Version is "1" or "2".
	Version string
	// Metadata as it stands in the manifest.
	Metadata json.RawMessage
	// Pipelines in the manifest's order, build pipelines before their users.
	Pipelines []*Pipeline
	Sources   []*Source
}

// Pipeline returns the pipeline with that name or id, or nil.
func (m *Manifest) Pipeline(nameOrID string) *Pipeline {
	if p := m.named(nameOrID); p != nil {
		return p
	}
	return m.byID(nameOrID)
}

// Names lists the names of the pipelines.
func (m *Manifest) Names() []string {
	names := make([]string, len(m.Pipelines))
	for i, p := range m.Pipelines {
		names[i] = p.Name
	}
	return names
}

func (m *Manifest) named(name string) *Pipeline {
	for _, p := range m.Pipelines {
		if p.Name == name {
			return p
		}
	}
	return nil
}

func (m *Manifest) byID(id string) *Pipeline {
	for _, p := range m.Pipelines {
		if len(p.Stages) > 0 && p.ID() == id {
			return p
		}
	}
	return nil
}

// Pipeline is a sequence of stages that make one tree.
type Pipeline struct {
	Name string
	// Build is the pipeline whose tree is the build root; nil is the host.
	Build *Pipeline
	// Runner prepares that build root.
	Runner Runner
	// SourceEpoch bounds the times in the tree, in seconds; nil is no bound.
	SourceEpoch *int64
	Stages      []*Stage
	// buildID is what ids are made with: that of Build, nil for the host.
	buildID *string
}

// ID is the id of the pipeline's last stage, "" if it has none.
func (p *Pipeline) ID() string {
	if len(p.Stages) == 0 {
		return ""
	}
	return p.Stages[len(p.Stages)-1].ID
}

// Runner is a runner as the manifest names it and as the libdir has it.
type Runner struct {
	// Name in the manifest; Path is that of the nearest older version.
	Name, Path string
	Meta       Meta
}

// Stage is one step of a pipeline; an assembler is one, too.
type Stage struct {
	Name string
	// ID is osbuild's: 64 hexadecimal digits.
	ID       string
	Module   *Module
	Pipeline *Pipeline
	// Index counts from 0 in the pipeline.
	Index int
	// Options as they stand in the manifest, "{}" if they do not.
	Options     json.RawMessage
	Inputs      []*Input
	Devices     []*Device
	Mounts      []*Mount
	SourceEpoch *int64
	// flaws keep the stage from being run.
	flaws []Fault
}

// Dependencies are the pipelines whose trees are inputs of the stage.
func (s *Stage) Dependencies() []*Pipeline {
	var deps []*Pipeline
	seen := map[*Pipeline]bool{}
	for _, in := range s.Inputs {
		for _, p := range in.Pipelines {
			if !seen[p] {
				seen[p] = true
				deps = append(deps, p)
			}
		}
	}
	return deps
}

// Input is content that a stage gets besides its tree.
type Input struct {
	Name   string
	Module *Module
	// Origin is "org.osbuild.source" or "org.osbuild.pipeline".
	Origin string
	// Refs are checksums or stage ids with the options of each.
	Refs map[string]json.RawMessage
	// Pipelines are what Refs refers to, if that are trees.
	Pipelines []*Pipeline
	Options   json.RawMessage
	// order is that of the references in the manifest.
	order []string
	id    string
}

// Device is a block device that a stage asks for.
type Device struct {
	Name    string
	Module  *Module
	Parent  *Device
	Options json.RawMessage
	id      string
}

// Mount is a filesystem that a stage asks for.
type Mount struct {
	Name   string
	Module *Module
	// Device is nil for mounts that need none.
	Device *Device
	// Partition is the number as it stands in the manifest, or nil.
	Partition *json.Number
	Target    string
	Options   json.RawMessage
	// noTarget says that the manifest has none, which is not an empty one.
	noTarget bool
	id       string
}

// Source provides content by checksum.
type Source struct {
	Name   string
	Module *Module
	// Items by checksum.
	Items   map[string]json.RawMessage
	Options json.RawMessage
	// items keeps their order for Describe.
	items json.RawMessage
}
