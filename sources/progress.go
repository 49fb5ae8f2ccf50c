package sources

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ossify/ossify/module"
	"golang.org/x/sync/errgroup"
)

// progress is counted by all workers and told to the engine by one goroutine.
type progress struct {
	bytes, itemsDone atomic.Int64
	mu               sync.Mutex
	sizes            map[string]int64
	items            int
}

// size notes the size of an item, in bytes, once it is known.
func (p *progress) size(key string, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sizes[key] = n
}

// report is what the engine is told; total is 0 until all sizes are known.
func (p *progress) report() map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	var total int64
	for _, n := range p.sizes {
		total += n
	}
	if len(p.sizes) < p.items {
		total = 0
	}
	return map[string]any{
		"done": p.bytes.Load(), "total": total,
		"items-done": p.itemsDone.Load(), "items-total": p.items,
	}
}

// each calls fetch for every item, atOnce at a time, and tells the engine of the
// progress. One item's failure does not keep the others from being fetched: they
// are there for the next try.
func (p *progress) each(keys []string, atOnce int, signal func(any) error, fetch func(key string) (cached bool, err error)) ([]module.ItemResult, error) {
	results := make([]module.ItemResult, len(keys))
	p.sizes, p.items = map[string]int64{}, len(keys)

	// The service's connection is for one goroutine at a time: this one tells
	// of progress, and has ended when the reply is sent.
	stop, told := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := signal(p.report()); err != nil {
					told <- err
					return
				}
			case <-stop:
				told <- signal(p.report())
				return
			}
		}
	}()
	var workers errgroup.Group
	workers.SetLimit(atOnce)
	for i, key := range keys {
		workers.Go(func() error {
			cached, err := fetch(key)
			if err != nil {
				results[i] = failed(key, err)
				return nil
			}
			p.itemsDone.Add(1)
			results[i] = succeeded(key, cached)
			return nil
		})
	}
	err := workers.Wait()
	close(stop)
	return results, errors.Join(err, <-told)
}
