package sources

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/ossify/ossify/module"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"
	"golang.org/x/sys/unix"
)

// imageDir is the folder of an image's cache entry with the image in it, in the
// layout of the "dir" transport, which keeps manifest and signatures as they are.
const imageDir = "image"

// skopeo fetches images of containers. Their ids, which are the digests of their
// configurations, name them.
func skopeo(ctx context.Context, s *module.Service, d *module.Download) (_ []module.ItemResult, err error) {
	p, err := newPuller(d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stores.close()) }()
	return p.progress.each(sortedKeys(d.Items), parallelImages, s.Signal, func(id string) (bool, error) {
		return p.image(ctx, id)
	})
}

// image fetches one image unless it is in the cache.
func (p *puller) image(ctx context.Context, id string) (cached bool, err error) {
	item, err := p.decode(id)
	if err != nil {
		return false, err
	}
	entry := filepath.Join(p.Cache, id)
	if _, err := os.Stat(filepath.Join(entry, imageDir)); err == nil {
		p.progress.size(id, 0)
		return true, nil
	}
	tmp, err := newScratch(p.Tmp)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, tmp.remove()) }()
	dir := filepath.Join(tmp.dir, imageDir)
	if err := p.copyImage(ctx, id, item, dir); err != nil {
		return false, fmt.Errorf("%s: %w", item, err)
	}
	if err := syncFiles(dir); err != nil {
		return false, fmt.Errorf("write %s to disk: %w", item, err)
	}
	if err := os.MkdirAll(entry, 0o755); err != nil {
		return false, err
	}
	err = os.Rename(dir, filepath.Join(entry, imageDir))
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		err = nil // another build was quicker
	}
	return false, err
}

// copyImage writes the image to dir, a new directory, if it has that id.
func (p *puller) copyImage(ctx context.Context, id string, item *imageItem, dir string) (err error) {
	ctx, got, stop := p.watch(ctx)
	defer stop()
	defer func() {
		if err != nil {
			err = cause(ctx, err)
		}
	}()
	src, sys, err := p.open(ctx, item)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	instance, err := chooseInstance(ctx, src, sys)
	if err != nil {
		return err
	}
	img, err := image.FromUnparsedImage(ctx, sys, image.UnparsedInstance(src, instance))
	if err != nil {
		return err
	}
	config, err := img.ConfigBlob(ctx)
	if err != nil {
		return err
	}
	if has := digest.FromBytes(config).String(); has != id {
		return fmt.Errorf("the image has the id %s, and the manifest wants %s; nothing was stored", has, id)
	}
	ref, err := directory.NewReference(dir)
	if err != nil {
		return err
	}
	dest, err := ref.NewImageDestination(ctx, sys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dest.Close()) }()
	c := &imageCopy{src: src, dest: dest, got: func(n int) {
		got()
		p.progress.bytes.Add(int64(n))
	}}
	// A container storage has the layers in another form than the manifest says.
	layers, edited := img.LayerInfos(), false
	if stored, err := src.LayerInfosForCopy(ctx, instance); err != nil {
		return err
	} else if stored != nil && !reflect.DeepEqual(stored, layers) {
		layers, edited = uncompressed(stored), true
	}
	p.progress.size(id, totalSize(layers))
	for _, layer := range layers {
		if err := c.blob(ctx, layer); err != nil {
			return err
		}
	}
	if edited {
		if img, err = img.UpdatedImage(ctx, types.ManifestUpdateOptions{LayerInfos: layers}); err != nil {
			return err
		}
	}
	if _, err := dest.PutBlob(ctx, bytes.NewReader(config), img.ConfigInfo(), none.NoCache, true); err != nil {
		return err
	}
	blob, _, err := img.Manifest(ctx)
	if err != nil {
		return err
	}
	if err := dest.PutManifest(ctx, blob, nil); err != nil {
		return err
	}
	signatures, err := src.GetSignatures(ctx, instance)
	if err != nil {
		return fmt.Errorf("read signatures: %w", err)
	}
	if err := dest.PutSignatures(ctx, signatures, nil); err != nil {
		return err
	}
	return dest.Commit(ctx, image.UnparsedInstance(src, nil))
}

// chooseInstance returns the digest of the image for this machine if the source
// is an index of images, else nil.
func chooseInstance(ctx context.Context, src types.ImageSource, sys *types.SystemContext) (*digest.Digest, error) {
	blob, kind, err := src.GetManifest(ctx, nil)
	if err != nil || !manifest.MIMETypeIsMultiImage(kind) {
		return nil, err
	}
	list, err := manifest.ListFromBlob(blob, kind)
	if err != nil {
		return nil, err
	}
	instance, err := list.ChooseInstance(sys)
	return &instance, err
}

// uncompressed says of layers of a container storage that they are what their
// media types call them, so that a manifest can be made of them.
func uncompressed(layers []types.BlobInfo) []types.BlobInfo {
	for i := range layers {
		layers[i].URLs = nil
		if !strings.HasSuffix(layers[i].MediaType, "gzip") {
			layers[i].CompressionOperation = types.Decompress
		}
	}
	return layers
}

// totalSize adds up the layers, in bytes, as far as their sizes are known.
func totalSize(layers []types.BlobInfo) int64 {
	var total int64
	for _, layer := range layers {
		total += max(layer.Size, 0)
	}
	return total
}

// imageCopy copies blobs.
type imageCopy struct {
	src  types.ImageSource
	dest types.ImageDestination
	// got is called whenever something came.
	got func(n int)
}

// blob copies one blob, once, and checks what came.
func (c *imageCopy) blob(ctx context.Context, info types.BlobInfo) error {
	done, _, err := c.dest.TryReusingBlob(ctx, info, none.NoCache, false)
	if done || err != nil {
		return err
	}
	stream, _, err := c.src.GetBlob(ctx, info, none.NoCache)
	if err != nil {
		return imageAdvice(err)
	}
	defer stream.Close()
	limit := info.Size
	if limit < 0 { // of a layer in a container storage nobody says it
		limit = maxUnstated
	}
	_, err = c.dest.PutBlob(ctx, &verified{ctx: ctx, r: stream, want: info.Digest, sum: info.Digest.Verifier(), left: limit, got: c.got}, info, none.NoCache, false)
	return err
}

// verified reads a blob and fails at its end if its digest is another one, and before
// if it is larger than the image's manifest says.
type verified struct {
	ctx  context.Context
	r    io.Reader
	want digest.Digest
	sum  digest.Verifier
	// left is how many bytes may come.
	left int64
	got  func(n int)
}

// Read reads some of the blob.
func (v *verified) Read(buf []byte) (int, error) {
	if err := v.ctx.Err(); err != nil {
		return 0, context.Cause(v.ctx)
	}
	n, err := v.r.Read(buf)
	if v.left -= int64(n); v.left < 0 {
		return 0, fmt.Errorf("the layer %s is larger than the image says; nothing was stored", v.want)
	}
	v.sum.Write(buf[:n])
	v.got(n)
	if err == io.EOF && !v.sum.Verified() {
		return n, fmt.Errorf("checksum mismatch: a layer is not %s; nothing was stored", v.want)
	}
	return n, err
}

// syncFiles brings the files of a flat directory to disk.
func syncFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
