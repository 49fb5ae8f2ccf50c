package pipeline

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/registry"
	"github.com/ossify/ossify/store"
	"golang.org/x/sync/errgroup"
)

// RemoteCache is what a build does with registries.
type RemoteCache struct {
	// From are asked for checkpoints that are not in the store, To get those of the build.
	From, To []*registry.Cache
	// ByID takes a checkpoint by its stage's id alone, whatever made it.
	ByID bool
	// Notes are annotations of what To gets.
	Notes map[string]string
}

// Transfer is what was moved between the store and a registry.
type Transfer struct {
	// Cache is the registry's repository; Pushed says that it got the checkpoints.
	Cache       string
	Pushed      bool
	Checkpoints int
	registry.Moved
	Duration time.Duration
}

// asked is how many checkpoints a registry is asked for at a time.
const asked = 8

// remote is a checkpoint in a registry that a pipeline begins with.
type remote struct {
	*registry.Remote
	cache *registry.Cache
}

// findRemote returns the last of the pipeline's stages, from the index first and before the index
// end, whose checkpoint a registry has, and that checkpoint; nil if there is none.
func (b *builder) findRemote(ctx context.Context, r *pipelineRun, first, end int) (index int, found *remote, err error) {
	stages := r.pipeline.Stages
	var candidates []int
	for i := end - 1; i >= first; i-- {
		if r.lease != nil && i >= r.lease.first && i < r.lease.last {
			continue // not without what ossify-loop has of it
		}
		candidates = append(candidates, i)
	}
	// The last one first: it is all that a build needs of what somebody else has built.
	for _, some := range [][]int{candidates[:min(1, len(candidates))], candidates[min(1, len(candidates)):]} {
		for _, cache := range b.Remote.From {
			if index, found, err = b.ask(ctx, cache, stages, some); found != nil || err != nil {
				return index, found, err
			}
		}
	}
	return 0, nil, nil
}

// ask asks a registry for the checkpoints of some stages and returns the first of them that it has. One
// that does not answer is told of, and not asked again.
func (b *builder) ask(ctx context.Context, cache *registry.Cache, stages []*Stage, some []int) (int, *remote, error) {
	if b.silent[cache] {
		return 0, nil, nil
	}
	found := make([]*registry.Remote, len(some))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(asked)
	for n, i := range some {
		group.Go(func() (err error) {
			key := b.keys[stages[i]]
			if b.Remote.ByID {
				key = ""
			}
			found[n], err = cache.Find(groupCtx, stages[i].ID, key)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		if ctx.Err() != nil {
			return 0, nil, context.Cause(ctx)
		}
		b.Monitor.Log("going on without the cache: " + err.Error())
		b.silent[cache] = true
		return 0, nil, nil
	}
	for n, r := range found {
		if r != nil {
			return some[n], &remote{r, cache}, nil
		}
	}
	return 0, nil, nil
}

// pull brings the checkpoint that the pipeline begins with into the store.
func (b *builder) pull(ctx context.Context, r *pipelineRun) (_ *store.Layer, err error) {
	s := r.pipeline.Stages[r.first-1]
	unlock, err := b.Store.LockStage(ctx, s.ID, func() {
		b.Monitor.Waiting(fmt.Sprintf("another build on this store is at %s of pipeline %s", s.Name, s.Pipeline.Name))
	})
	if err != nil {
		return nil, err
	}
	defer unlock()
	start, size := time.Now(), r.remote.SizeAfter(r.local)
	name := fmt.Sprintf("%s from %s", r.pipeline.Name, r.remote.cache.Name())
	p := &progress{b: b, name: name, total: size}
	b.Monitor.BeginDownload(name, r.first-r.local, size)
	layer, moved, err := r.remote.Pull(ctx, b.Store, b.keyOf, p.told)
	end := monitor.DownloadResult{Err: err, Duration: time.Since(start)}
	if err == nil {
		end.Cached = max(0, r.first-r.local-moved.Layers)
		b.transferred(Transfer{Cache: r.remote.cache.Name(), Checkpoints: moved.Layers, Moved: *moved, Duration: time.Since(start)})
	}
	b.Monitor.EndDownload(name, end)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w; leave out --cache-from to build it here", err)
	}
	return layer, err
}

// keyOf is the key of the stage of that id, false if this manifest has none.
func (b *builder) keyOf(id string) (string, bool) {
	for s, key := range b.keys {
		if s.ID == id {
			return key, true
		}
	}
	return "", false
}

// progress tells how much of a transfer is done; total is in bytes, 0 if unknown.
type progress struct {
	b     *builder
	name  string
	total int64
	mu    sync.Mutex
	done  int64
}

func (p *progress) told(n int64) {
	p.mu.Lock()
	p.done += n
	done := p.done
	p.mu.Unlock()
	p.b.Monitor.Download(p.name, monitor.DownloadProgress{Done: done, Total: p.total})
}

func (b *builder) transferred(t Transfer) {
	b.transfers.Lock()
	defer b.transfers.Unlock()
	for i := range b.transfers.all {
		if all := &b.transfers.all[i]; all.Cache == t.Cache && all.Pushed == t.Pushed {
			all.Checkpoints += t.Checkpoints
			all.Layers += t.Layers
			all.Bytes += t.Bytes
			all.Unpacked += t.Unpacked
			all.Duration = max(all.Duration, t.Duration)
			return
		}
	}
	b.transfers.all = append(b.transfers.all, t)
}

// transfers are those of a build, one for each registry and direction.
type transfers struct {
	sync.Mutex
	all []Transfer
}

// push brings the checkpoints of all pipelines that were looked at into the registries.
func (b *builder) push(ctx context.Context) error {
	for _, cache := range b.Remote.To {
		start := time.Now()
		var tops, below []*store.Layer
		for _, pipeline := range b.manifest.Pipelines {
			r := b.runs[pipeline]
			if r == nil {
				continue
			}
			for i, s := range pipeline.Stages {
				if r.lease != nil && i >= r.lease.first && i < r.lease.last {
					continue
				}
				layer, err := b.Store.Lookup(s.ID, b.keys[s])
				if err != nil {
					return err
				}
				switch {
				case layer == nil:
				case i == len(pipeline.Stages)-1:
					tops = append(tops, layer)
				default:
					below = append(below, layer)
				}
			}
		}
		t := Transfer{Cache: cache.Name(), Pushed: true}
		b.Monitor.Log(fmt.Sprintf("pushing %d checkpoints to %s, but for those that it has", len(tops)+len(below), cache.Name()))
		// The last stages bring the layers of all others with them.
		err := b.pushSome(ctx, cache, tops, &t, 1)
		if err == nil {
			err = b.pushSome(ctx, cache, below, &t, asked)
		}
		t.Duration = time.Since(start)
		if err != nil {
			return fmt.Errorf("the build is complete, but not in the cache: %w", err)
		}
		b.transferred(t)
	}
	return nil
}

func (b *builder) pushSome(ctx context.Context, cache *registry.Cache, layers []*store.Layer, t *Transfer, atOnce int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	var mu sync.Mutex
	for _, layer := range layers {
		group.Go(func() error {
			moved, err := cache.Push(ctx, b.Store, layer, b.Remote.Notes)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if moved.New {
				t.Checkpoints++
			}
			t.Layers += moved.Layers
			t.Bytes += moved.Bytes
			t.Unpacked += moved.Unpacked
			return nil
		})
	}
	return group.Wait()
}
