package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
)

// preparedRoot is a build root with its runner's set-up done.
type preparedRoot struct {
	root  *sandbox.BuildRoot
	layer *overlay.Stack
	// key is that of its layer, "" for what no runner has made.
	key string
}

// rootName begins the names of the layers of build roots; the key follows.
const rootName = "ossify-root-"

// rootCache holds the build roots of this build, by key.
type rootCache struct {
	mu    sync.Mutex
	roots map[string]*rootEntry
}

type rootEntry struct {
	once sync.Once
	root *preparedRoot
	err  error
}

// setupOnce is the runner's word that its set-up need not be repeated for each
// stage.
const setupOnce = "once"

// root returns the build root of a pipeline, which it prepares if need be: the
// runner runs once, and what it makes of /etc and /var is kept as a layer.
func (b *builder) root(ctx context.Context, p *Pipeline) (*preparedRoot, error) {
	key, err := b.rootKey(p)
	if err != nil {
		return nil, err
	}
	b.roots.mu.Lock()
	if b.roots.roots == nil {
		b.roots.roots = map[string]*rootEntry{}
	}
	entry := b.roots.roots[key]
	if entry == nil {
		entry = &rootEntry{}
		b.roots.roots[key] = entry
	}
	b.roots.mu.Unlock()
	entry.once.Do(func() { entry.root, entry.err = b.prepareRoot(ctx, p, key) })
	return entry.root, entry.err
}

func (b *builder) prepareRoot(ctx context.Context, p *Pipeline, key string) (*preparedRoot, error) {
	root := &sandbox.BuildRoot{Tree: "/"}
	if p.Build != nil {
		top, err := b.wait(ctx, p.Build)
		if err != nil {
			return nil, err
		}
		if top == nil {
			return nil, fmt.Errorf("pipeline %q: its build pipeline %q is empty", p.Name, p.Build.Name)
		}
		tree, err := b.mountTree(top)
		if err != nil {
			return nil, err
		}
		root = &sandbox.BuildRoot{Tree: tree, Boot: true}
	}
	layer, err := b.keepLayer(ctx, &kept{
		name: rootName + key, key: key, waiting: "another build on this store prepares the build root",
		fill: func(layer *store.Layer, scratch string, out *capture) error {
			if err := b.setUpRoot(ctx, p, root, layer, scratch, out); err != nil {
				return fmt.Errorf("pipeline %q: prepare its build root with %s: %w", p.Name, p.Runner.Path, err)
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	stack, err := b.Store.ReadOnly(layer)
	if err != nil {
		return nil, err
	}
	return &preparedRoot{root: root, layer: stack, key: key}, nil
}

// setUpRoot runs the pipeline's runner on the layer.
func (b *builder) setUpRoot(ctx context.Context, p *Pipeline, root *sandbox.BuildRoot, layer *store.Layer, scratch string, out *capture) error {
	ctx, cancel := b.limited(ctx)
	defer cancel()
	stack, err := b.Store.Writable(layer)
	if err != nil {
		return err
	}
	runner := &sandbox.Runner{Program: p.Runner.Path, Libdir: libdirOf(p.Runner)}
	if runner.Library, err = findLibrary(runner.Libdir); err != nil {
		return fmt.Errorf("package %s of libdir %s: %w", libraryName, runner.Libdir, err)
	}
	return b.Containers.PrepareRoot(ctx, scratch, root, stack, runner, out)
}

// libdirOf is the libdir that the runner is in.
func libdirOf(r Runner) string { return filepath.Dir(filepath.Dir(r.Path)) }

// treeMounts are the trees that are mounted for this build, by layer.
type treeMounts struct {
	mu      sync.Mutex
	dirs    map[string]string
	unmount []func() error
}

// mountTree mounts a checkpoint read-only until the end of the build.
func (b *builder) mountTree(layer *store.Layer) (string, error) {
	b.trees.mu.Lock()
	defer b.trees.mu.Unlock()
	if dir, ok := b.trees.dirs[layer.ID]; ok {
		return dir, nil
	}
	stack, err := b.Store.ReadOnly(layer)
	if err != nil {
		return "", err
	}
	dir, remove, err := b.Store.Scratch("tree-")
	if err != nil {
		return "", err
	}
	unmount, err := stack.Mount(dir)
	if err != nil {
		return "", errors.Join(err, remove())
	}
	if b.trees.dirs == nil {
		b.trees.dirs = map[string]string{}
	}
	b.trees.dirs[layer.ID] = dir
	b.trees.unmount = append(b.trees.unmount, func() error {
		if err := unmount(); err != nil {
			return err
		}
		return remove()
	})
	return dir, nil
}

// unmountAll takes the trees of mountTree away.
func (b *builder) unmountAll() error {
	var errs []error
	for _, unmount := range b.trees.unmount {
		errs = append(errs, unmount())
	}
	return errors.Join(errs...)
}

// limited is ctx with the time limit of stages.
func (b *builder) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if b.StageTimeout <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, b.StageTimeout, fmt.Errorf("it took longer than %s (--stage-timeout)", b.StageTimeout))
}

// execute maps the stage's inputs, while the workplace may still be in the
// making, and runs its module. A status other than 0 can come with an error of
// what was taken away after it.
func (w *workplace) execute(ctx context.Context, c *chain, trees map[string]*store.Layer, res *StageResult) (status int, err error) {
	build := ctx
	ctx, cancel := w.b.limited(ctx)
	defer cancel()
	inputs, release, err := w.b.mapInputs(ctx, w.stage, trees)
	if err != nil {
		return 0, err
	}
	defer func() { err = joinRelease(ctx, err, release()) }()
	if err := w.making.Wait(); err != nil {
		return 0, err
	}
	if w.base != nil {
		if err := w.b.Store.Inherit(w.layer, w.base); err != nil {
			return 0, err
		}
	}
	if w.shell == nil {
		c.follow(build, w)
	}
	tree, err := w.b.Store.Writable(w.layer)
	if err != nil {
		return 0, err
	}
	var devices *attached
	content := &sandbox.StageContent{Tree: tree, Inputs: inputs.dir, Writable: inputs.writable, Records: inputs.records}
	if w.base != nil {
		if content.Record, err = w.b.Store.Record(w.base); err != nil {
			return 0, err
		}
	}
	if writer := w.b.diskWriter(w.stage); writer == DiskMounted || writer == DiskAuto && canMountDisks(ctx, w.b.Helper) {
		disks := &diskServer{ctx: ctx, helper: w.b.Helper, made: map[string]*leased{}}
		content.Disk = disks.handle
		defer func() { err = joinRelease(ctx, err, disks.close()) }()
	}
	chain, inside := w.b.runs[w.stage.Pipeline].lease, ""
	if part := chain.makes(w.stage); part != nil {
		content.Instead = func() error {
			if err := part.make(ctx, w.b.Helper, inside, w.stage); err != nil {
				return fmt.Errorf("make the %s by ossify-loop: %w", part.kind, err)
			}
			fmt.Fprintf(w.output, "ossify-loop made the %s\n", part.kind)
			return nil
		}
	}
	content.Arguments = func(at sandbox.Places) (data []byte, ops []sandbox.Op, err error) {
		inside = at.Tree
		if devices, err = w.b.attach(ctx, w.stage, at, c.root.root, w.scratch); err != nil {
			return nil, nil, err
		}
		more := map[string]any{}
		if content.Record != nil {
			more["record"] = sandbox.TreeRecord
		}
		if content.Disk != nil {
			more["disk-writer"] = w.b.DiskWriter
		}
		if len(w.stage.Module.Meta.Sources) > 0 {
			more["sources"] = w.b.sourceArguments(w.stage)
		}
		for _, left := range devices.left {
			content.Left = append(content.Left, left.path)
		}
		data, err = arguments(w.stage, inputs.args, devices, more)
		return data, devices.ops, err
	}
	if w.b.Break.at(w.stage) {
		w.b.touched.Store(true)
		w.b.Break.announce(w.stage)
		content.Shell = &sandbox.Shell{Terminal: w.b.Break.Terminal}
	}
	if w.shell != nil {
		content.Shell = w.shell
		if c.root.root.Whole {
			content.Tree = nil
		}
	}
	r, err := w.container.Run(ctx, content)
	succeeded := err == nil && r.Status == 0 && w.shell == nil
	if succeeded {
		err = devices.takeRecords(r.Left)
	}
	if devices != nil {
		err = joinRelease(ctx, err, devices.detach(ctx, succeeded && err == nil))
	}
	if err == nil && succeeded && chain != nil && w.stage.Index == chain.last {
		err = chain.export(ctx, inside)
	}
	if err != nil {
		return 0, err
	}
	res.Error, res.Refused, res.Metadata = r.Error, r.Refused, r.Metadata
	if r.Record == nil {
		r.Record = content.Record
	}
	w.layer.SetRecord(r.Record)
	return r.Status, w.close()
}

// sourceArguments are what the stage gets of the sources that its module names:
// only it and the file that it reads them from know of their secrets.
func (b *builder) sourceArguments(s *Stage) map[string]any {
	out := map[string]any{}
	for _, source := range b.manifest.Sources {
		if slices.Contains(s.Module.Meta.Sources, source.Name) {
			out[source.Name] = map[string]any{"items": source.Items, "secrets": b.Secrets[source.Name]}
		}
	}
	return out
}

// arguments encodes what a stage reads, with more members than the usual ones.
func arguments(s *Stage, inputs map[string]json.RawMessage, a *attached, more map[string]any) ([]byte, error) {
	meta := map[string]any{"id": s.ID}
	if s.SourceEpoch != nil {
		meta["source-epoch"] = *s.SourceEpoch
	}
	options := s.Options
	if len(options) == 0 {
		options = json.RawMessage("{}")
	}
	args := map[string]any{
		"tree":    "/run/osbuild/tree",
		"options": options,
		"meta":    meta,
		"inputs":  inputs,
		"devices": a.devices,
		"mounts":  a.mounts,
		"paths": map[string]string{
			"inputs":  "/run/osbuild/inputs",
			"devices": "/dev",
			"mounts":  "/run/osbuild/mounts",
		},
	}
	maps.Copy(args, more)
	data, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("encode arguments: %w", err)
	}
	return data, nil
}
