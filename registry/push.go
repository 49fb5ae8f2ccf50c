package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ossify/ossify/store"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"
	"golang.org/x/sync/errgroup"
)

// packed is a layer as registries have it.
type packed struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	// DiffID is the digest of the archive before it was compressed, Unpacked its size in bytes.
	DiffID   digest.Digest `json:"diff-id"`
	Unpacked int64         `json:"unpacked"`
}

const (
	annotationDiffID   = "org.ossify.layer.diff-id"
	annotationUnpacked = "org.ossify.layer.size"
)

// Push brings the checkpoint into the registry, with those that it is based on, but for what is
// there already. more are annotations of its manifest.
func (c *Cache) Push(ctx context.Context, s *store.Store, top *store.Layer, more map[string]string) (moved *Moved, err error) {
	chain, err := s.Links(top)
	if err != nil {
		return nil, err
	}
	last := chain[len(chain)-1]
	defer func() {
		if err != nil {
			err = fmt.Errorf("push checkpoint %s to %s: %w", last.Name, c.Name(), advice(err))
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
		}
	}()
	moved = &Moved{}
	exact := exactTag(last.Name, last.Key)
	if there, err := c.there(ctx, exact); err != nil || there {
		return moved, err
	}
	ref, err := c.reference(exact)
	if err != nil {
		return nil, err
	}
	dest, err := ref.NewImageDestination(ctx, c.sys)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dest.Close()) }()
	p := &push{Cache: c, store: s, dest: dest, layers: make([]packed, len(chain)), moved: make([]bool, len(chain))}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range chain {
		group.Go(func() error { return p.layer(groupCtx, i, chain[i].Layer) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, l := range p.layers {
		if p.moved[i] {
			moved.add(l.Size, l.Unpacked)
		}
	}
	manifest, err := p.manifest(ctx, chain, more)
	if err != nil {
		return nil, err
	}
	if err := dest.PutManifest(ctx, manifest, nil); err != nil {
		return nil, err
	}
	moved.New = true
	return moved, c.tag(ctx, last.Name, manifest)
}

// there says whether the repository has the tag.
func (c *Cache) there(ctx context.Context, tag string) (bool, error) {
	ref, err := c.reference(tag)
	if err != nil {
		return false, err
	}
	_, err = docker.GetDigest(ctx, c.sys, ref)
	if isNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// tag gives the manifest one more tag.
func (c *Cache) tag(ctx context.Context, tag string, manifest []byte) (err error) {
	ref, err := c.reference(tag)
	if err != nil {
		return err
	}
	dest, err := ref.NewImageDestination(ctx, c.sys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dest.Close()) }()
	return dest.PutManifest(ctx, manifest, nil)
}

// push is one call of Push.
type push struct {
	*Cache
	store  *store.Store
	dest   types.ImageDestination
	layers []packed
	moved  []bool
}

// layer sees to it that the repository has a layer.
func (p *push) layer(ctx context.Context, i int, l *store.Layer) error {
	var known packed
	if p.store.Blob(l, &known) && known.Digest.Validate() == nil && known.DiffID.Validate() == nil {
		p.layers[i] = known
		if p.has(known.Digest) {
			return nil
		}
		there, _, err := p.dest.TryReusingBlob(ctx, types.BlobInfo{Digest: known.Digest, Size: known.Size}, none.NoCache, false)
		if err != nil {
			return err
		}
		if there {
			p.saw(known.Digest)
			return nil
		}
	}
	pipe, in := io.Pipe()
	archive := digest.SHA256.Digester()
	unpacked := &writeCounter{w: archive.Hash()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		in.CloseWithError(p.compress(l, in, unpacked))
	}()
	info, err := p.dest.PutBlob(ctx, pipe, types.BlobInfo{Size: -1, MediaType: imgspec.MediaTypeImageLayerZstd}, none.NoCache, false)
	pipe.CloseWithError(errors.New("the upload has ended"))
	<-done
	if err != nil {
		return err
	}
	p.saw(info.Digest)
	p.moved[i] = true
	p.layers[i] = packed{Digest: info.Digest, Size: info.Size, DiffID: archive.Digest(), Unpacked: unpacked.n}
	return p.store.SetBlob(l, p.layers[i])
}

func (p *push) compress(l *store.Layer, to io.Writer, archive io.Writer) error {
	encoder, err := zstd.NewWriter(to, zstd.WithEncoderConcurrency(runtime.NumCPU()))
	if err != nil {
		return err
	}
	return errors.Join(p.store.Pack(l, io.MultiWriter(encoder, archive)), encoder.Close())
}

type writeCounter struct {
	w io.Writer
	n int64
}

func (w *writeCounter) Write(b []byte) (int, error) {
	w.n += int64(len(b))
	return w.w.Write(b)
}

// manifest uploads the config and returns the manifest.
func (p *push) manifest(ctx context.Context, chain []store.Link, more map[string]string) ([]byte, error) {
	last := chain[len(chain)-1]
	var diffIDs []digest.Digest
	m := imgspec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspec.MediaTypeImageManifest, ArtifactType: ArtifactType,
		Annotations: map[string]string{
			annotationID: last.Name, annotationKey: last.Key, annotationStage: last.Stage, annotationPipeline: last.Pipeline,
			imgspec.AnnotationCreated: last.Made.UTC().Format(time.RFC3339Nano),
		},
	}
	maps.Copy(m.Annotations, more)
	for i, l := range p.layers {
		diffIDs = append(diffIDs, l.DiffID)
		m.Layers = append(m.Layers, imgspec.Descriptor{
			MediaType: imgspec.MediaTypeImageLayerZstd, Digest: l.Digest, Size: l.Size,
			Annotations: map[string]string{
				annotationID: chain[i].Name, annotationDiffID: l.DiffID.String(), annotationUnpacked: fmt.Sprint(l.Unpacked),
			},
		})
	}
	conf := config{Image: store.ImageConfig(chain, diffIDs)}
	for i, l := range chain {
		out := link{Link: l, Same: i > 0 && bytes.Equal(l.Record, chain[i-1].Record)}
		if !out.Same && len(l.Record) > 0 {
			encoder, err := zstd.NewWriter(nil)
			if err != nil {
				return nil, err
			}
			out.Record = encoder.EncodeAll(l.Record, nil)
		}
		conf.Checkpoints = append(conf.Checkpoints, out)
	}
	text, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	info, err := p.dest.PutBlob(ctx, bytes.NewReader(text), types.BlobInfo{Digest: digest.FromBytes(text), Size: int64(len(text)), MediaType: imgspec.MediaTypeImageConfig}, none.NoCache, true)
	if err != nil {
		return nil, err
	}
	m.Config = imgspec.Descriptor{MediaType: imgspec.MediaTypeImageConfig, Digest: info.Digest, Size: int64(len(text))}
	return json.Marshal(m)
}

// blobOf is what a descriptor of push.manifest says of a layer.
func blobOf(d imgspec.Descriptor) packed {
	out := packed{Digest: d.Digest, Size: d.Size, DiffID: digest.Digest(d.Annotations[annotationDiffID])}
	_, _ = fmt.Sscan(d.Annotations[annotationUnpacked], &out.Unpacked) // without it, it is only not told
	return out
}
