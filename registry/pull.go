package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ossify/ossify/store"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"
	"golang.org/x/sync/errgroup"
)

const (
	// parallel is how many layers are moved at a time.
	parallel = 4
	// maxConfig bounds a config, maxRecord a side record, and window what is kept in memory to
	// decompress a layer, in bytes.
	maxConfig = 64 << 20
	maxRecord = 256 << 20
	window    = 128 << 20
)

// Moved is what Push and Pull did.
type Moved struct {
	// Layers were moved; Bytes is their size in the registry, Unpacked as archives.
	Layers          int
	Bytes, Unpacked int64
	// New says that Push found no such checkpoint in the registry.
	New bool
}

// add counts a layer.
func (m *Moved) add(bytes, unpacked int64) {
	m.Layers++
	m.Bytes += bytes
	m.Unpacked += unpacked
}

// Pull brings the checkpoint into the store, with those that it is based on, but for what is there
// already. key returns the key with which one of that id is used again here, and whether that id is one of
// those that are expected; with nil all are, with the keys of the registry. told is told how many bytes
// have come.
func (r *Remote) Pull(ctx context.Context, s *store.Store, key func(id string) (string, bool), told func(bytes int64)) (top *store.Layer, moved *Moved, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("pull checkpoint %s from %s: %w", r.links[len(r.links)-1].Name, r.cache.Name(), advice(err))
		}
	}()
	for i := range r.links {
		if key == nil || r.links[i].Name == "" {
			continue
		}
		k, ok := key(r.links[i].Name)
		if !ok {
			return nil, nil, fmt.Errorf("it is based on %s, which is no stage of this manifest", r.links[i].Name)
		}
		r.links[i].Key = k
	}
	have := 0
	for i := len(r.links) - 1; i >= 0 && top == nil; i-- {
		if top, err = s.Lookup(r.links[i].Name, r.links[i].Key); err != nil {
			return nil, nil, err
		}
		have = i + 1
	}
	if top == nil {
		have = 0
	}
	moved = &Moved{}
	if have == len(r.links) {
		return top, moved, nil
	}
	ref, err := r.cache.reference(r.tag)
	if err != nil {
		return nil, nil, err
	}
	src, err := ref.NewImageSource(ctx, r.cache.sys)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	p := &pull{Remote: r, store: s, src: src, told: told}
	if err := p.layers(ctx, have, top); err != nil {
		return nil, nil, errors.Join(err, p.undo())
	}
	for i, l := range p.made {
		moved.add(r.layers[have+i].Size, p.unpacked[i])
		top = l
	}
	return top, moved, nil
}

// pull is one call of Pull.
type pull struct {
	*Remote
	store *store.Store
	src   types.ImageSource
	told  func(int64)
	made  []*store.Layer
	// unpacked are the sizes of their archives.
	unpacked []int64
}

// layers makes the layers from the index have on, on base, and names them when all are on the disk.
func (p *pull) layers(ctx context.Context, have int, base *store.Layer) error {
	for _, l := range p.links[have:] {
		layer, err := p.store.Create(base, l.Key, l.Origin)
		if err != nil {
			return err
		}
		p.made = append(p.made, layer)
		base = layer
	}
	p.unpacked = make([]int64, len(p.made))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, layer := range p.made {
		group.Go(func() (err error) {
			p.unpacked[i], err = p.layer(groupCtx, p.Remote.layers[have+i], layer)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if err := p.store.Sync(); err != nil {
		return err
	}
	record, err := p.recordBefore(have)
	if err != nil {
		return err
	}
	for i, layer := range p.made {
		l := p.links[have+i]
		if !l.Same {
			if record, err = expand(l.Record); err != nil {
				return fmt.Errorf("side record of %s: %w", l.Name, err)
			}
		}
		layer.SetRecord(record)
		if l.Name == "" {
			continue // of a pipeline whose stages share a layer
		}
		if err := p.store.Name(layer, l.Name, l.Metadata); err != nil {
			return err
		}
	}
	return nil
}

// recordBefore is the side record of the checkpoint before that index.
func (p *pull) recordBefore(i int) ([]byte, error) {
	for i--; i >= 0; i-- {
		if !p.links[i].Same {
			return expand(p.links[i].Record)
		}
	}
	return nil, nil
}

// expand decompresses a side record; nothing is none.
func expand(data []byte) ([]byte, error) {
	if len(data) == 0 {
		return nil, nil
	}
	d, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderMaxMemory(maxRecord))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(io.LimitReader(d, maxRecord))
}

func (p *pull) undo() error {
	var errs []error
	for i := len(p.made) - 1; i >= 0; i-- {
		errs = append(errs, p.store.Delete(p.made[i]))
	}
	return errors.Join(errs...)
}

// layer unpacks a layer while it comes. It is garbage if that fails.
func (p *pull) layer(ctx context.Context, d imgspec.Descriptor, layer *store.Layer) (unpacked int64, err error) {
	blob, err := openBlob(ctx, p.src, d)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	blob.told = p.told
	decoder, err := zstd.NewReader(blob, zstd.WithDecoderMaxWindow(window), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer decoder.Close()
	counted := &counter{r: decoder}
	if err := p.store.Unpack(layer, counted); err != nil {
		if wrong := blob.check(); wrong != nil && ctx.Err() == nil {
			err = wrong // the reason of the other one
		}
		return 0, err
	}
	// The end of an archive may come before that of the blob.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return 0, err
	}
	if err := blob.check(); err != nil {
		return 0, err
	}
	return counted.n, p.store.SetBlob(layer, blobOf(d))
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// blob is content on its way from a registry.
type blob struct {
	io.ReadCloser
	ctx      context.Context
	want     imgspec.Descriptor
	verifier digest.Verifier
	told     func(int64)
	left     int64
	stall    *time.Timer
	cancel   context.CancelCauseFunc
}

// stallTime is how long a registry may send nothing.
const stallTime = 2 * time.Minute

func openBlob(ctx context.Context, src types.ImageSource, d imgspec.Descriptor) (*blob, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stall := time.AfterFunc(stallTime, func() { cancel(fmt.Errorf("the registry sent nothing for %s", stallTime)) })
	r, _, err := src.GetBlob(ctx, types.BlobInfo{Digest: d.Digest, Size: d.Size}, none.NoCache)
	if err != nil {
		stall.Stop()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		cancel(nil)
		return nil, err
	}
	return &blob{ReadCloser: r, ctx: ctx, want: d, verifier: d.Digest.Verifier(), told: func(int64) {}, left: d.Size, stall: stall, cancel: cancel}, nil
}

// Read reads at most as much as the manifest says that there is.
func (b *blob) Read(buf []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(buf[:min(int64(len(buf)), b.left)])
	b.stall.Reset(stallTime)
	b.left -= int64(n)
	_, _ = b.verifier.Write(buf[:n])
	b.told(int64(n))
	switch {
	case err == io.EOF && b.left > 0:
		err = io.ErrUnexpectedEOF
	case err != nil && err != io.EOF && b.ctx.Err() != nil:
		err = context.Cause(b.ctx)
	}
	return n, err
}

// check reads the rest and says whether it was what the manifest names.
func (b *blob) check() error {
	if _, err := io.Copy(io.Discard, b); err != nil {
		return err
	}
	if !b.verifier.Verified() {
		return fmt.Errorf("checksum mismatch: the registry sent something else than %s; nothing was stored", b.want.Digest)
	}
	return nil
}

// Close ends the transfer.
func (b *blob) Close() error {
	b.stall.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}

func (c *Cache) readConfig(ctx context.Context, src types.ImageSource, d imgspec.Descriptor, conf *config) (err error) {
	if d.Size > maxConfig {
		return fmt.Errorf("it has %d bytes, more than any of ossify's", d.Size)
	}
	b, err := openBlob(ctx, src, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	data, err := io.ReadAll(b)
	if err == nil {
		err = b.check()
	}
	if err == nil {
		err = json.Unmarshal(data, conf)
	}
	return err
}
