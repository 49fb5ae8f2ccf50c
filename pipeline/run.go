package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/registry"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// RunOptions are what a build needs besides the manifest.
type RunOptions struct {
	Store      *store.Store
	Containers *sandbox.Containers
	Monitor    monitor.Monitor
	// Helper is the socket of ossify-loop.
	Helper string
	// DiskWriter is how stages that write disks write their filesystems:
	// DiskOffline, DiskMounted by ossify-loop, or DiskAuto where the other is
	// impossible.
	DiskWriter string
	// Targets are the pipelines to build, with all that they need.
	Targets []*Pipeline
	// AllSources fetches the content of all sources, needed or not.
	AllSources bool
	// Secrets are what sources need to be let in, by the source's name.
	Secrets map[string]json.RawMessage
	// Remote are registries with checkpoints.
	Remote RemoteCache
	// Verify reads the checkpoints that are used, before they are.
	Verify bool
	// Break opens a shell before stages run, if not nil.
	Break *Break
	// StageTimeout ends a stage that takes longer, with the services of its
	// inputs, and a runner that prepares a build root; 0 is no limit.
	StageTimeout time.Duration
}

// builder runs one manifest.
type builder struct {
	RunOptions
	manifest *Manifest
	keys     map[*Stage]string
	hostKey  string
	runs     map[*Pipeline]*pipelineRun
	sources  map[*Source]*sourceRun
	slots    chan struct{}
	// shell is what the build is for, or nil.
	shell *Shell
	// touched says that a shell was in one of this build's trees.
	touched atomic.Bool
	roots   rootCache
	// libraries are what Python modules import.
	libraries libraries
	trees     treeMounts
	// cleanup removes what stages have left, beside the next ones.
	cleanup errgroup.Group
	// silent are registries that did not answer.
	silent    map[*registry.Cache]bool
	transfers transfers
	// refusals takes what keeps the build from beginning; if it is nil, the first
	// of these is an error.
	refusals *[]error
	// kept is how many bytes of the stages' output are kept.
	kept atomic.Int64
}

// pipelineRun is a pipeline that is looked at in this build.
type pipelineRun struct {
	pipeline *Pipeline
	result   *PipelineResult
	// stages are those that it is about: all but for a shell.
	stages []*Stage
	// first is the index of the first stage that has to run; base is the
	// checkpoint below it.
	first int
	base  *store.Layer
	// remote, if not nil, is what is pulled to become base; the checkpoints of the stages
	// before the index local are in the store.
	remote *remote
	local  int
	// lease is what ossify-loop has of the pipeline's disks, or nil.
	lease *leaseChain
	// done is closed when top holds the pipeline's tree, or err is set.
	done chan struct{}
	top  *store.Layer
	err  error
}

// Run builds the targets. Checkpoints that are in the store are taken from
// there, pipelines that do not need each other run at the same time.
func (m *Manifest) Run(ctx context.Context, opts RunOptions) (*Result, error) {
	return m.builder(opts).run(ctx)
}

func (m *Manifest) builder(opts RunOptions) *builder {
	return &builder{
		RunOptions: opts, manifest: m,
		runs:    map[*Pipeline]*pipelineRun{},
		sources: map[*Source]*sourceRun{},
		slots:   make(chan struct{}, runtime.NumCPU()),
		silent:  map[*registry.Cache]bool{},
	}
}

func (b *builder) run(ctx context.Context) (*Result, error) {
	if b.Break != nil {
		b.slots = make(chan struct{}, 1)
	}
	if err := b.planTargets(ctx); err != nil {
		return b.result(), err
	}
	if err := b.checkBreak(); err != nil {
		return b.result(), err
	}
	if b.AllSources {
		for _, s := range b.manifest.Sources {
			b.planSource(s).items = s.Items
		}
	}
	b.quieten()
	b.Monitor.BeginBuild(len(b.runs), len(b.sources))
	parent := ctx
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range b.sources {
		group.Go(func() error { return b.download(ctx, s) })
	}
	for _, r := range b.runs {
		group.Go(func() error {
			defer close(r.done)
			r.err = b.build(ctx, r)
			return r.err
		})
	}
	err := errors.Join(group.Wait(), b.closeLeases(), b.cleanup.Wait(), b.unmountAll())
	if parent.Err() == nil {
		// What was finished of a build that failed is worth keeping, too.
		err = errors.Join(err, b.push(parent))
	}
	b.Monitor.EndBuild(err == nil)
	return b.result(), err
}

// Checkpoint returns the stage's checkpoint, nil if there is none.
func (m *Manifest) Checkpoint(s *Stage, opts RunOptions) (*store.Layer, error) {
	b := &builder{RunOptions: opts, manifest: m}
	if err := b.computeKeys(); err != nil {
		return nil, err
	}
	return b.Store.Find(s.ID, b.keys[s])
}

func (b *builder) result() *Result {
	res := &Result{Transfers: b.transfers.all}
	for _, p := range b.manifest.Pipelines {
		if r := b.runs[p]; r != nil {
			res.Pipelines = append(res.Pipelines, r.result)
		}
	}
	for _, s := range b.manifest.Sources {
		if r := b.sources[s]; r != nil {
			res.Sources = append(res.Sources, r.result)
		}
	}
	return res
}

// planTargets finds out what has to run for the targets and what that needs.
func (b *builder) planTargets(ctx context.Context) error {
	if err := b.computeKeys(); err != nil {
		return err
	}
	for _, p := range b.Targets {
		if err := b.plan(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// refuse returns why the build cannot begin, or notes it where all reasons are wanted.
func (b *builder) refuse(err error) error {
	if b.refusals == nil || err == nil {
		return err
	}
	*b.refusals = append(*b.refusals, err)
	return nil
}

// plan finds out what of the pipeline has to run and what that needs.
func (b *builder) plan(ctx context.Context, p *Pipeline) error {
	if b.runs[p] != nil {
		return nil
	}
	r := &pipelineRun{pipeline: p, result: &PipelineResult{Pipeline: p}, stages: b.shell.stages(p), done: make(chan struct{})}
	b.runs[p] = r
	var leaseErr error
	if r.lease, leaseErr = b.planLease(p); r.lease != nil {
		b.hideChain(p, r.lease)
	}
	end := min(len(r.stages), b.Break.firstBreak(p.Stages))
	for i := end - 1; i >= 0; i-- {
		layer, err := b.Store.Lookup(p.Stages[i].ID, b.keys[p.Stages[i]])
		if err != nil {
			return err
		}
		if layer != nil {
			if err := b.verify(p.Stages[i], layer); err != nil {
				return err
			}
			r.first, r.base = i+1, layer
			break
		}
	}
	if r.first < end {
		index, found, err := b.findRemote(ctx, r, r.first, end)
		if err != nil {
			return err
		}
		if found != nil {
			r.first, r.remote, r.local = index+1, found, r.first
		}
	}
	toRun := r.stages[r.first:]
	if b.shell.in(p) {
		toRun = append(slices.Clip(toRun), b.shell.Stage)
	}
	if len(toRun) == 0 {
		return nil
	}
	if err := b.refuse(leaseErr); err != nil {
		return err
	}
	if p.Build != nil {
		if err := b.plan(ctx, p.Build); err != nil {
			return err
		}
	}
	for _, s := range toRun {
		if len(s.flaws) > 0 {
			if err := b.refuse(&ValidationError{Name: b.manifest.Name, Faults: s.flaws}); err != nil {
				return err
			}
		}
		if err := b.refuse(b.supported(s)); err != nil {
			return err
		}
		for _, dep := range s.Dependencies() {
			if err := b.plan(ctx, dep); err != nil {
				return err
			}
		}
		if err := b.planSources(s); err != nil {
			return err
		}
	}
	return nil
}

// verify reads the stage's checkpoint, if that is asked for.
func (b *builder) verify(s *Stage, layer *store.Layer) error {
	if !b.Verify {
		return nil
	}
	if err := b.Store.Verify(layer); err != nil {
		return fmt.Errorf("pipeline %q: stage %d (%s): %w", s.Pipeline.Name, s.Index, s.Name, err)
	}
	return nil
}

// supported refuses before anything runs what a stage asks for in vain.
func (b *builder) supported(s *Stage) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("pipeline %q: stage %d (%s): %w", s.Pipeline.Name, s.Index, s.Name, fmt.Errorf(format, args...))
	}
	if unknown := sandbox.UnknownCapabilities(s.Module.Meta.Capabilities); len(unknown) > 0 {
		return fail("the module %s asks for capabilities that this kernel does not have: %s; %s.meta.json lists them",
			s.Module.Path, strings.Join(unknown, ", "), s.Module.Path)
	}
	if b.diskWriter(s) == DiskMounted {
		if err := b.reachHelper("there are no mounts of the kernel for --disk-writer mounted: leave it out", "choose --disk-writer offline"); err != nil {
			return fail("%w", err)
		}
	}
	for _, d := range s.Devices {
		if why := deviceMapper[d.Module.Name]; why != "" && !b.Containers.HasLoopDevices() {
			return fail("device %q: %s", d.Name, why)
		}
	}
	for _, m := range s.Mounts {
		if err := b.canMount(m); err != nil {
			return fail("mount %q: %w", m.Name, err)
		}
	}
	programs := []string{s.Module.Path, s.Pipeline.Runner.Path}
	for _, in := range s.Inputs {
		programs = append(programs, in.Module.Path)
	}
	for _, m := range s.attachments() {
		programs = append(programs, m.Path)
	}
	for _, path := range programs {
		if err := executable(path); err != nil {
			return fail("%w", err)
		}
	}
	return nil
}

// executable returns an error if a program of a libdir cannot be one.
func executable(path string) error {
	if err := unix.Access(path, unix.X_OK); err != nil {
		return fmt.Errorf("the module %s cannot be executed: %w; make it executable with chmod a+x, on a filesystem that is not mounted noexec", path, err)
	}
	return nil
}

// wait returns the tree of a pipeline that this build looks at.
func (b *builder) wait(ctx context.Context, p *Pipeline) (*store.Layer, error) {
	r := b.runs[p]
	select {
	case <-r.done:
		return r.top, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// build runs the pipeline's stages, each on the checkpoint of the one before.
func (b *builder) build(ctx context.Context, r *pipelineRun) error {
	p := r.pipeline
	b.Monitor.BeginPipeline(monitor.PipelineInfo{Name: p.Name, ID: p.ID(), Stages: len(p.Stages), Cached: r.first})
	if r.remote != nil {
		var err error
		if r.base, err = b.pull(ctx, r); err != nil {
			b.Monitor.EndPipeline(p.Name, false)
			return fmt.Errorf("pipeline %q: %w", p.Name, err)
		}
	}
	for _, s := range p.Stages[:r.first] {
		res := &StageResult{Stage: s, Cached: true, Success: true}
		r.result.Stages = append(r.result.Stages, res)
		b.Monitor.EndStage(info(s), monitor.StageResult{Cached: true, Success: true})
	}
	if r.base != nil {
		b.Store.MarkUsed(r.base)
	}
	r.top = r.base
	c := &chain{b: b}
	var err error
	for _, s := range r.stages[r.first:] {
		var res *StageResult
		res, r.top, err = b.stage(ctx, c, s, r.top)
		if res != nil {
			r.result.Stages = append(r.result.Stages, res)
		}
		if err != nil {
			break
		}
	}
	if err == nil && b.shell.in(p) {
		err = b.runShell(ctx, c, r.top)
	}
	if chainErr := c.wait(); err == nil {
		err = chainErr
	}
	if err == nil && r.first < len(r.stages) && len(r.stages) == len(p.Stages) {
		err = b.Store.ForgetFailed(p.Name)
	}
	if err == nil {
		r.result.Tree = r.top
	}
	b.Monitor.EndPipeline(p.Name, err == nil)
	return err
}

func info(s *Stage) monitor.StageInfo {
	return monitor.StageInfo{Pipeline: s.Pipeline.Name, Name: s.Name, ID: s.ID, Index: s.Index, Count: len(s.Pipeline.Stages)}
}

// stage makes the stage's checkpoint on base, unless another build has made it
// meanwhile.
func (b *builder) stage(ctx context.Context, c *chain, s *Stage, base *store.Layer) (*StageResult, *store.Layer, error) {
	trees, err := b.needs(ctx, c, s)
	if err != nil {
		return nil, nil, err
	}
	unlock, err := b.Store.LockStage(ctx, s.ID, func() {
		b.Monitor.Waiting(fmt.Sprintf("another build on this store is at %s of pipeline %s", s.Name, s.Pipeline.Name))
	})
	if err != nil {
		return nil, nil, err
	}
	if layer, err := b.Store.Find(s.ID, b.keys[s]); b.Break == nil && (err != nil || layer != nil) {
		unlock()
		b.Monitor.EndStage(info(s), monitor.StageResult{Cached: true, Success: err == nil})
		return &StageResult{Stage: s, Cached: true, Success: err == nil}, layer, err
	}
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		unlock()
		return nil, nil, context.Cause(ctx)
	}
	res, layer, err := b.runStage(ctx, c, s, base, trees)
	if err != nil {
		unlock()
		if failed := (*StageFailed)(nil); !errors.As(err, &failed) {
			err = fmt.Errorf("pipeline %q: stage %d (%s): %w", s.Pipeline.Name, s.Index, s.Name, err)
		}
		return res, nil, err
	}
	c.name(s, layer, res, unlock)
	return res, layer, nil
}

// needs returns when there is all that the stage needs: its build root, its sources,
// and the trees that are its inputs, which it returns by id.
func (b *builder) needs(ctx context.Context, c *chain, s *Stage) (trees map[string]*store.Layer, err error) {
	if c.root == nil {
		if c.root, err = b.root(ctx, s.Pipeline); err != nil {
			return nil, err
		}
	}
	if err := b.waitSources(ctx, s); err != nil {
		return nil, err
	}
	trees = map[string]*store.Layer{}
	for _, dep := range s.Dependencies() {
		if trees[dep.ID()], err = b.wait(ctx, dep); err != nil {
			return nil, err
		}
	}
	return trees, nil
}

// runStage runs the stage on a layer of its own, which it returns sealed.
func (b *builder) runStage(ctx context.Context, c *chain, s *Stage, base *store.Layer, trees map[string]*store.Layer) (*StageResult, *store.Layer, error) {
	b.Monitor.BeginStage(info(s))
	start := time.Now()
	res := &StageResult{Stage: s}
	defer func() {
		res.Duration = time.Since(start)
		b.Monitor.EndStage(info(s), res.told())
	}()
	w, err := c.workplace(ctx, s, base)
	if err != nil {
		return res, nil, err
	}
	status, err := w.execute(ctx, c, trees, res)
	res.Output = b.keep(w.output)
	if status != 0 {
		failed := &StageFailed{Result: res, Status: status}
		return res, nil, errors.Join(failed, err, c.discard(), b.Store.KeepFailed(w.layer, s.Pipeline.Name))
	}
	if err == nil {
		err = b.seal(w.layer, s)
	}
	if err != nil {
		return res, nil, errors.Join(err, c.discard(), w.discard())
	}
	res.Success = true
	return res, w.layer, nil
}

// seal seals the layer of a stage. Times of its own making and of what was
// downloaded for it become the source-epoch.
func (b *builder) seal(layer *store.Layer, s *Stage) error {
	since := layer.Made
	if s.SourceEpoch != nil {
		downloaded, err := b.downloaded(s)
		if err != nil {
			return err
		}
		if downloaded.Before(since) {
			since = downloaded
		}
	}
	return b.Store.Seal(layer, s.SourceEpoch, since)
}

// Bounds of what is kept of stages' output for the result, in bytes: of one stage,
// and of one when all have maxOutputs together.
const (
	maxOutput  = 4 << 20
	maxOutputs = 64 << 20
	minOutput  = 64 << 10
)

// keep returns the end of a stage's output, a short one when much is kept already.
func (b *builder) keep(c *capture) string {
	if b.kept.Load() > maxOutputs {
		c.max = minOutput
	}
	text := c.String()
	b.kept.Add(int64(len(text)))
	return text
}

// capture keeps the end of a stage's output and hands all of it on.
type capture struct {
	max int
	buf []byte
	cut bool
	tee func([]byte)
}

func (c *capture) Write(p []byte) (int, error) {
	c.tee(p)
	c.buf = append(c.buf, p...)
	if len(c.buf) > 2*c.max {
		c.cut = true
		c.buf = append(c.buf[:0], c.buf[len(c.buf)-c.max:]...)
	}
	return len(p), nil
}

func (c *capture) String() string {
	buf, cut := c.buf, c.cut
	if over := len(buf) - c.max; over > 0 {
		buf, cut = buf[over:], true
	}
	text := bytes.ToValidUTF8(buf, []byte("\ufffd"))
	if cut {
		return "[...]\n" + string(text)
	}
	return string(text)
}
