package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ossify/ossify/store"
)

// kept is something that builds share beside checkpoints: what a runner makes of a
// build root, or a compiled package.
type kept struct {
	// name and key are those of its layer.
	name, key string
	// waiting is told while another build is at it.
	waiting string
	// fill makes its content in the layer. scratch is an empty directory, what
	// is written to out comes with an error.
	fill func(layer *store.Layer, scratch string, out *capture) error
}

// keptOutput is how much of what fill prints comes with its error, in bytes.
const keptOutput = 16 << 10

// keepLayer returns the layer, which it makes if it is not in the store.
func (b *builder) keepLayer(ctx context.Context, k *kept) (*store.Layer, error) {
	unlock, err := b.Store.LockStage(ctx, k.name, func() { b.Monitor.Waiting(k.waiting) })
	if err != nil {
		return nil, err
	}
	defer unlock()
	layer, err := b.Store.Find(k.name, k.key)
	if err != nil || layer != nil {
		return layer, err
	}
	return b.makeKept(k)
}

func (b *builder) makeKept(k *kept) (_ *store.Layer, err error) {
	layer, err := b.Store.Create(nil, k.key, store.Origin{Stage: k.name})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Store.Delete(layer))
		}
	}()
	scratch, remove, err := b.Store.Scratch("kept-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	out := &capture{max: keptOutput, tee: func([]byte) {}}
	if err := k.fill(layer, scratch, out); err != nil {
		if text := strings.TrimSpace(out.String()); text != "" {
			err = fmt.Errorf("%w; it printed: %s", err, text)
		}
		return nil, err
	}
	return layer, b.Store.Commit(layer, k.name, nil, nil)
}
