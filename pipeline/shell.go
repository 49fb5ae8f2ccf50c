package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
)

// Shell is a shell, or a command, in the sandbox of a stage, which does not run. What it
// changes of the tree is in a layer that goes with it.
type Shell struct {
	Stage *Stage
	// After puts it on the tree that the stage left, else it is on the one that it found. What
	// of that is not in the store is built.
	After bool
	// Tree, if not nil, is the tree that it is on instead.
	Tree *store.Layer
	// Root, if not nil, has the build root in place of the pipeline's.
	Root *store.Origin
	// Inside makes the tree itself the root directory.
	Inside bool
	sandbox.Shell
	status int
}

// noStage is a manifest for shells on trees of which no manifest is at hand.
const noStage = `{"version": "2", "pipelines": [{"name": "shell", "stages": [{"type": "org.osbuild.noop"}]}]}`

// LoadShell loads a manifest whose one stage does nothing. It has the tools of this machine.
func LoadShell(index *Index) (*Manifest, error) { return Load("shell", []byte(noStage), index) }

// Shell runs the shell and returns its exit status.
func (m *Manifest) Shell(ctx context.Context, opts RunOptions, sh *Shell) (status int, err error) {
	run := *sh
	run.Alone = true
	opts.Targets = []*Pipeline{sh.Stage.Pipeline}
	b := m.builder(opts)
	b.shell = &run
	if _, err := b.run(ctx); err != nil {
		return 0, err
	}
	return run.status, nil
}

// in says whether the shell is in a stage of the pipeline.
func (sh *Shell) in(p *Pipeline) bool { return sh != nil && sh.Stage.Pipeline == p }

// stages are those of a pipeline whose tree is needed.
func (sh *Shell) stages(p *Pipeline) []*Stage {
	switch {
	case !sh.in(p):
		return p.Stages
	case sh.Tree != nil:
		return nil
	case sh.After:
		return p.Stages[:sh.Stage.Index+1]
	}
	return p.Stages[:sh.Stage.Index]
}

// quieten tells nothing of what is done for a shell if nothing has to be built first.
func (b *builder) quieten() {
	for _, r := range b.runs {
		if r.first < len(r.stages) {
			return
		}
	}
	if b.shell != nil {
		b.Monitor = monitor.Null{}
	}
}

// runShell runs the shell on a layer of its own, which it deletes.
func (b *builder) runShell(ctx context.Context, c *chain, base *store.Layer) (err error) {
	s := b.shell.Stage
	if b.shell.Tree != nil {
		base = b.shell.Tree
	}
	switch {
	case b.shell.Inside:
		c.root, err = b.insideRoot(base)
	case b.shell.Root != nil:
		c.root, err = b.storedRoot(b.shell.Root)
	}
	if err != nil {
		return err
	}
	trees, err := b.needs(ctx, c, s)
	if err != nil {
		return err
	}
	if err := c.discard(); err != nil {
		return err
	}
	if b.shell.Inside {
		// Devices and mounts are of files in /run/osbuild/tree.
		bare := *s
		bare.Devices, bare.Mounts = nil, nil
		s = &bare
	}
	w := c.prepare(ctx, s, base)
	defer func() { err = errors.Join(err, w.discard()) }()
	w.shell = &b.shell.Shell
	b.shell.status, err = w.execute(ctx, c, trees, &StageResult{})
	return err
}

// insideRoot is a tree as its own build root.
func (b *builder) insideRoot(layer *store.Layer) (*preparedRoot, error) {
	if layer == nil {
		return nil, errors.New("the tree is empty: there is nothing to run in it")
	}
	tree, err := b.mountTree(layer)
	if err != nil {
		return nil, err
	}
	stack, err := b.Store.ReadOnly(layer)
	return &preparedRoot{root: &sandbox.BuildRoot{Tree: tree, Whole: true}, layer: stack}, err
}

// errNoRoot says that the store does not have a build root any more.
var errNoRoot = errors.New("its build root is gone from the store: build it again, name the manifest (ossify shell MANIFEST STAGE@after), or take the tools of this machine (--host)")

// storedRoot is the build root that a layer tells of.
func (b *builder) storedRoot(o *store.Origin) (*preparedRoot, error) {
	layer, err := b.Store.Find(rootName+o.Root, o.Root)
	if err != nil {
		return nil, err
	}
	top, err := b.Store.Named(o.Build)
	if err != nil {
		return nil, err
	}
	if layer == nil || top == nil {
		return nil, errNoRoot
	}
	tree, err := b.mountTree(top)
	if err != nil {
		return nil, err
	}
	stack, err := b.Store.ReadOnly(layer)
	return &preparedRoot{root: &sandbox.BuildRoot{Tree: tree, Boot: true}, layer: stack, key: o.Root}, err
}

// Find returns the stages that text means: by name, id or beginning of an id, or as
// PIPELINE:NAME or PIPELINE:INDEX. The same stage of two pipelines is one.
func (m *Manifest) Find(text string) []*Stage {
	var found []*Stage
	ids := map[string]bool{}
	for _, p := range m.Pipelines {
		for _, s := range p.Stages {
			place := fmt.Sprintf("%s:%d", p.Name, s.Index)
			if (s.Name == text || p.Name+":"+s.Name == text || place == text || strings.HasPrefix(s.ID, text)) && !ids[s.ID] {
				ids[s.ID] = true
				found = append(found, s)
			}
		}
	}
	return found
}
