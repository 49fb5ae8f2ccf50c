package pipeline

import (
	"fmt"

	"github.com/ossify/ossify/store"
)

// Layers returns the layers of the pipeline's stages up to the last one whose checkpoint is
// in the store. That counts as no use.
func (m *Manifest) Layers(p *Pipeline, opts RunOptions) ([]*store.Layer, error) {
	b := &builder{RunOptions: opts, manifest: m}
	if err := b.computeKeys(); err != nil {
		return nil, err
	}
	for i := len(p.Stages) - 1; i >= 0; i-- {
		top, err := b.Store.Lookup(p.Stages[i].ID, b.keys[p.Stages[i]])
		if err != nil {
			return nil, err
		}
		if top == nil {
			continue
		}
		layers, err := b.Store.Chain(top)
		if err == nil && len(layers) != i+1 {
			err = fmt.Errorf("the tree of stage %d (%s) of pipeline %q has %d layers, and its stages are %d: what each of them did is not known", i, p.Stages[i].Name, p.Name, len(layers), i+1)
		}
		return layers, err
	}
	return nil, nil
}
