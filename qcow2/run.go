package qcow2

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// batchSize is about how many bytes a worker reads at once.
const batchSize = 1 << 20

// batch is a run of guest clusters on its way: filled by the scout with what
// to do, by a worker with the data, emptied by the writer, used again.
type batch struct {
	guest    int64 // first guest cluster
	clusters int
	data     []byte  // what was read
	pieces   []piece // one per cluster
	packed   []byte  // compressed clusters, one after the other
	done     chan struct{}
}

// piece is what became of a cluster: zero, raw, or packed[from:to].
type piece struct {
	kind     pieceKind
	from, to int
}

type pieceKind int

const (
	pieceZero pieceKind = iota
	pieceRaw
	piecePacked
)

// run moves the contents of src into img:
//
//	scout ──► work ──► workers (read, find zeros, compress)
//	  │                   │ done
//	  └─────► order ────► writer (in guest order) ──► free ──► scout
//
// A fixed number of batches goes round, which bounds the memory. The writer
// alone decides where data goes, so the threads leave no mark on the result.
func run(ctx context.Context, src *source, img *image, opts Options) error {
	perBatch := max(1, batchSize/opts.ClusterSize)
	count := 2*opts.Threads + 2
	free := make(chan *batch, count)
	for range count {
		free <- &batch{
			data:   make([]byte, perBatch*opts.ClusterSize),
			pieces: make([]piece, perBatch),
			done:   make(chan struct{}, 1),
		}
	}
	work := make(chan *batch, count)
	order := make(chan *batch, count)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(work)
		defer close(order)
		return scout(ctx, src, img.clusterSize, free, work, order)
	})
	for range opts.Threads {
		group.Go(func() error {
			pack, err := newCompressor(opts)
			if err != nil {
				return err
			}
			for b := range work {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := b.load(src, opts.ClusterSize, pack); err != nil {
					return err
				}
				b.done <- struct{}{}
			}
			return nil
		})
	}
	group.Go(func() error {
		for b := range order {
			select {
			case <-b.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := b.store(img); err != nil {
				return err
			}
			if opts.Progress != nil {
				opts.Progress(min((b.guest+int64(b.clusters))*img.clusterSize, src.size), src.size)
			}
			free <- b // never blocks: there is room for all of them
		}
		return nil
	})
	return group.Wait()
}

// scout sends the clusters that may hold data to the workers and the writer.
func scout(ctx context.Context, src *source, clusterSize int64, free <-chan *batch, work, order chan<- *batch) error {
	for pos := int64(0); pos < src.size; {
		start, end, err := src.next(pos)
		if err != nil {
			return err
		}
		if start < 0 {
			return ctx.Err()
		}
		guest := start / clusterSize
		limit := (end-1)/clusterSize + 1
		for guest < limit {
			var b *batch
			select {
			case b = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
			b.guest = guest
			b.clusters = int(min(limit-guest, int64(len(b.pieces))))
			guest += int64(b.clusters)
			work <- b // never blocks: there is room for all batches
			order <- b
		}
		pos = limit * clusterSize
	}
	return ctx.Err()
}

// load reads the batch's clusters and decides how each is stored.
func (b *batch) load(src *source, clusterSize int, pack compressor) error {
	data := b.data[:b.clusters*clusterSize]
	if err := src.read(data, b.guest*int64(clusterSize)); err != nil {
		return err
	}
	b.packed = b.packed[:0]
	for i := range b.clusters {
		cluster := data[i*clusterSize : (i+1)*clusterSize]
		switch {
		case isZero(cluster):
			b.pieces[i] = piece{kind: pieceZero}
			continue
		case pack == nil:
			b.pieces[i] = piece{kind: pieceRaw}
			continue
		}
		from := len(b.packed)
		var err error
		if b.packed, err = pack.compress(b.packed, cluster); err != nil {
			return err
		}
		b.pieces[i] = piece{piecePacked, from, len(b.packed)}
		if len(b.packed)-from >= clusterSize {
			b.packed = b.packed[:from]
			b.pieces[i] = piece{kind: pieceRaw}
		}
	}
	return nil
}

// store puts the batch's clusters into the image.
func (b *batch) store(img *image) error {
	size := int(img.clusterSize)
	for i := 0; i < b.clusters; {
		next := i + 1
		var err error
		switch p := b.pieces[i]; p.kind {
		case pieceRaw:
			for next < b.clusters && b.pieces[next].kind == pieceRaw {
				next++
			}
			err = img.putRaw(b.guest+int64(i), b.data[i*size:next*size])
		case piecePacked:
			err = img.putCompressed(b.guest+int64(i), b.packed[p.from:p.to])
		}
		if err != nil {
			return err
		}
		i = next
	}
	return nil
}
