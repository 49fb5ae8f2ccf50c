package pipeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"golang.org/x/sync/errgroup"
)

// chain is what a pipeline does beside its running stage, so that a stage costs
// little more than its own work: the workplace of the next stage is made while
// the stage runs, and a sealed layer is named while the next stage runs already.
// Names are given in order; a stage after one that has no name is garbage.
type chain struct {
	b    *builder
	root *preparedRoot
	// named gets the outcome of the last naming.
	named chan error
	next  *workplace
}

// workplace is what a stage needs to run: a layer and a container, which waits.
type workplace struct {
	b         *builder
	stage     *Stage
	base      *store.Layer
	layer     *store.Layer
	container *sandbox.PreparedStage
	// scratch is a folder on the store's filesystem; remove takes it away.
	scratch string
	remove  func() error
	output  *capture
	// shell, if not nil, runs in place of the stage.
	shell  *sandbox.Shell
	making errgroup.Group
}

// prepare starts making the workplace of s on base.
func (c *chain) prepare(ctx context.Context, s *Stage, base *store.Layer) *workplace {
	w := &workplace{b: c.b, stage: s, base: base}
	w.output = &capture{max: maxOutput, tee: func(p []byte) { c.b.Monitor.StageOutput(info(s), p) }}
	w.making.Go(func() (err error) {
		origin := store.Origin{Pipeline: s.Pipeline.Name, Stage: s.Name, Root: c.root.key}
		if s.Pipeline.Build != nil {
			origin.Build = s.Pipeline.Build.ID()
		}
		w.layer, err = c.b.Store.Create(base, c.b.keys[s], origin)
		return err
	})
	w.making.Go(func() error { return w.makeContainer(ctx, c.root) })
	return w
}

func (w *workplace) makeContainer(ctx context.Context, root *preparedRoot) (err error) {
	if w.scratch, w.remove, err = w.b.Store.Scratch("stage-"); err != nil {
		return err
	}
	s := w.stage
	stage := &sandbox.Stage{
		Name: s.Name, Class: s.Module.Class, Program: s.Module.Path, Libdir: s.Module.Libdir,
		Devices: len(s.Devices)+len(s.Mounts) > 0, Network: s.Module.Meta.Network && !root.root.Whole,
		Epoch: s.SourceEpoch, Capabilities: s.Module.Meta.Capabilities,
	}
	if !root.root.Whole {
		if stage.Library, err = w.b.library(ctx, s.Pipeline, root, stage.Libdir); err != nil {
			return err
		}
	}
	if s.Pipeline.Runner.Meta.Setup != setupOnce {
		stage.Runner = s.Pipeline.Runner.Path
	}
	w.container, err = w.b.Containers.PrepareStage(w.scratch, root.root, root.layer, stage, w.output)
	return err
}

// workplace returns that of s on base: the prepared one, if it is that. It may
// still be in the making.
func (c *chain) workplace(ctx context.Context, s *Stage, base *store.Layer) (*workplace, error) {
	w := c.next
	if w == nil || w.stage != s || base == nil || w.base.ID != base.ID {
		if err := c.discard(); err != nil {
			return nil, err
		}
		w = c.prepare(ctx, s, base)
	}
	c.next = nil
	return w, nil
}

// follow starts making the workplace of the stage after w's, if there is one.
func (c *chain) follow(ctx context.Context, w *workplace) {
	if s := w.stage; s.Index+1 < len(s.Pipeline.Stages) {
		c.next = c.prepare(ctx, s.Pipeline.Stages[s.Index+1], w.layer)
	}
}

// discard takes away a prepared workplace that is not needed.
func (c *chain) discard() error {
	w := c.next
	if w == nil {
		return nil
	}
	c.next = nil
	return w.discard()
}

// close ends the container; the layer stays.
func (w *workplace) close() error {
	var err error
	if w.container != nil {
		err = w.container.Close()
		w.container = nil
	}
	if w.remove != nil {
		w.b.cleanup.Go(w.remove)
		w.remove = nil
	}
	return err
}

// discard ends the container and deletes the layer.
func (w *workplace) discard() error {
	_ = w.making.Wait() // what could not be made is not there
	err := w.close()
	if w.layer != nil {
		err = errors.Join(err, w.b.Store.Delete(w.layer))
	}
	return err
}

// name names a sealed layer when those before it have their names, and then
// calls unlock.
func (c *chain) name(s *Stage, layer *store.Layer, res *StageResult, unlock func()) {
	before, named := c.named, make(chan error, 1)
	touched := c.b.touched.Load()
	c.named = named
	go func() {
		defer unlock()
		var err error
		if before != nil {
			err = <-before
		}
		if err == nil && !touched {
			if err = c.b.Store.Name(layer, s.ID, res.Metadata); err != nil {
				err = fmt.Errorf("pipeline %q: stage %d (%s): %w", s.Pipeline.Name, s.Index, s.Name, err)
			}
		}
		named <- err
	}()
}

// wait returns when all layers have their names and nothing is left over.
func (c *chain) wait() error {
	err := c.discard()
	if c.named != nil {
		if nameErr := <-c.named; err == nil {
			err = nameErr
		}
	}
	return err
}
