package pipeline

import (
	"fmt"

	"github.com/ossify/ossify/store"
)

// chain is what a pipeline does beside its running stage, so that a stage costs
// little more than its container: the layer of the next stage is made while the
// stage runs, and a sealed layer is named while the next stage runs already.
// Names are given in order; a stage after one that has no name is garbage.
type chain struct {
	b *builder
	// named gets the outcome of the last naming.
	named chan error
	next  *nextLayer
}

// nextLayer is a layer that is being made for a stage.
type nextLayer struct {
	base  *store.Layer
	stage *Stage
	layer *store.Layer
	err   error
	done  chan struct{}
}

// prepare starts making the layer of the stage after s on s's own layer.
func (c *chain) prepare(s *Stage, layer *store.Layer) {
	if s.Index+1 == len(s.Pipeline.Stages) {
		return
	}
	n := &nextLayer{base: layer, stage: s.Pipeline.Stages[s.Index+1], done: make(chan struct{})}
	c.next = n
	go func() {
		defer close(n.done)
		n.layer, n.err = c.b.Store.Create(layer, c.b.keys[n.stage])
	}()
}

// layer returns a new layer for s on base: the prepared one, if it is that.
func (c *chain) layer(s *Stage, base *store.Layer) (*store.Layer, error) {
	if n := c.next; n != nil && n.stage == s && base != nil && n.base.ID == base.ID {
		c.next = nil
		<-n.done
		return n.layer, n.err
	}
	if err := c.discard(); err != nil {
		return nil, err
	}
	return c.b.Store.Create(base, c.b.keys[s])
}

// discard deletes a prepared layer that is not needed.
func (c *chain) discard() error {
	n := c.next
	if n == nil {
		return nil
	}
	c.next = nil
	<-n.done
	if n.err != nil || n.layer == nil {
		return nil // it was never made
	}
	return c.b.Store.Delete(n.layer)
}

// name names a sealed layer when those before it have their names, and then
// calls unlock.
func (c *chain) name(s *Stage, layer *store.Layer, res *StageResult, unlock func()) {
	before, named := c.named, make(chan error, 1)
	c.named = named
	go func() {
		defer unlock()
		var err error
		if before != nil {
			err = <-before
		}
		if err == nil {
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
