package pipeline

import (
	"context"
	"fmt"
	"os"
	"slices"
)

// Plan is what a build would do.
type Plan struct {
	// Pipelines in the manifest's order, Sources likewise.
	Pipelines []*PlannedPipeline `json:"pipelines"`
	Sources   []*PlannedSource   `json:"sources"`
	// Refusals are why a build would not begin; its error would be the first of them.
	Refusals []error `json:"-"`
}

// PlannedPipeline is what a build would do with a pipeline.
type PlannedPipeline struct {
	Name string `json:"name"`
	// ID is that of the last stage, "" if there is none; Build is the pipeline whose tree
	// is the build root, "" for the host.
	ID     string         `json:"id"`
	Build  string         `json:"build,omitempty"`
	Stages []PlannedStage `json:"stages"`
	// Pull is what comes from a registry, in bytes.
	Pull int64 `json:"pull,omitempty"`
}

// PlannedStage is what a build would do with a stage.
type PlannedStage struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// State is StateCached, StateRegistry, StateRun or StateNotNeeded.
	State string `json:"state"`
	// Needs is what the stage asks for besides its tree, in words, if it has to run.
	Needs []string `json:"needs,omitempty"`
}

// Values of PlannedStage.State.
const (
	// StateCached is that of a stage whose tree is in the store.
	StateCached = "cached"
	// StateRegistry is that of a stage whose tree is pulled from a registry.
	StateRegistry = "registry"
	// StateRun is that of a stage that has to run.
	StateRun = "run"
	// StateNotNeeded is that of a stage that nothing that has to be built needs.
	StateNotNeeded = "not needed"
)

// PlannedSource is what a build would take from a source.
type PlannedSource struct {
	Name string `json:"name"`
	// Items are how many the build needs, Stored those that are in the store already.
	Items  int `json:"items"`
	Stored int `json:"stored"`
	// Local says that the others are not downloaded, as they are on this machine.
	Local bool `json:"local"`
	// Download is how many are downloaded. Bytes is what they add up to, but for Unsized
	// ones, whose size the manifest does not state.
	Download int   `json:"download"`
	Bytes    int64 `json:"bytes"`
	Unsized  int   `json:"unsized"`
}

// localSources take their items from the manifest or from this machine.
var localSources = []string{"org.osbuild.inline", "org.osbuild.containers-storage"}

// Plan finds out what Run would do with the same options; nothing is run or downloaded,
// and no checkpoint counts as used.
func (m *Manifest) Plan(ctx context.Context, opts RunOptions) (*Plan, error) {
	b := m.builder(opts)
	b.refusals = &[]error{}
	if err := b.planTargets(ctx); err != nil {
		return nil, err
	}
	plan := &Plan{Pipelines: []*PlannedPipeline{}, Sources: []*PlannedSource{}, Refusals: *b.refusals}
	for _, p := range m.Pipelines {
		plan.Pipelines = append(plan.Pipelines, b.planned(p))
	}
	for _, s := range m.Sources {
		source, err := b.plannedSource(s)
		if err != nil {
			return nil, err
		}
		plan.Sources = append(plan.Sources, source)
	}
	return plan, nil
}

func (b *builder) planned(p *Pipeline) *PlannedPipeline {
	out := &PlannedPipeline{Name: p.Name, ID: p.ID(), Stages: []PlannedStage{}}
	if p.Build != nil {
		out.Build = p.Build.Name
	}
	r := b.runs[p]
	if r != nil && r.remote != nil {
		out.Pull = r.remote.SizeAfter(r.local)
	}
	for _, s := range p.Stages {
		stage := PlannedStage{ID: s.ID, Name: s.Name, State: StateRun}
		switch {
		case r == nil:
			stage.State = StateNotNeeded
		case r.remote != nil && s.Index >= r.local && s.Index < r.first:
			stage.State = StateRegistry
		case s.Index < r.first:
			stage.State = StateCached
		default:
			stage.Needs = b.wants(s)
		}
		out.Stages = append(out.Stages, stage)
	}
	return out
}

// wants is what a stage asks for besides its tree and its build root.
func (b *builder) wants(s *Stage) (needs []string) {
	add := func(need string) {
		if !slices.Contains(needs, need) {
			needs = append(needs, need)
		}
	}
	for _, dep := range s.Dependencies() {
		add("pipeline " + dep.Name)
	}
	for _, in := range s.Inputs {
		for ref := range in.Refs {
			if source := b.sourceOf(ref); in.Origin == originSource && source != nil {
				add("source " + source.Name)
			}
		}
	}
	slices.Sort(needs)
	if s.Module.Meta.Network {
		add("the network")
	}
	const helper = "ossify-loop"
	if b.diskWriter(s) == DiskMounted || b.runs[s.Pipeline].lease.makes(s) != nil {
		add(helper)
	}
	for _, m := range s.Mounts {
		tool := unpackers[m.Module.Meta.Offline]
		switch {
		case b.Containers.HasLoopDevices():
			add("root, for mounts of the kernel")
		case m.Module.Meta.Offline == offlineLease:
			add(helper)
		case tool.program != "":
			add(fmt.Sprintf("%s in its build root (%s)", tool.program, tool.from))
		}
	}
	return needs
}

func (b *builder) plannedSource(s *Source) (*PlannedSource, error) {
	out := &PlannedSource{Name: s.Name, Local: slices.Contains(localSources, s.Name)}
	r := b.sources[s]
	if r == nil {
		return out, nil
	}
	out.Items = len(r.items)
	for ref, item := range r.items {
		size := itemSize(item)
		found, err := b.stored(ref)
		if err != nil {
			return nil, err
		}
		// A file of another size than the stated one is fetched again.
		whole := func(st os.FileInfo) bool { return st.IsDir() || size == 0 || st.Size() == size }
		switch {
		case slices.ContainsFunc(found, whole):
			out.Stored++
		case out.Local:
		case size == 0:
			out.Download, out.Unsized = out.Download+1, out.Unsized+1
		default:
			out.Download, out.Bytes = out.Download+1, out.Bytes+size
		}
	}
	return out, nil
}
