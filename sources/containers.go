package sources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/ossify/ossify/module"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/signature"
	imagestorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
	storagetypes "go.podman.io/storage/types"
	"golang.org/x/sync/errgroup"
)

// containerItem is an image in a registry or in containers/storage.
type containerItem struct {
	Image struct {
		Name   string `json:"name"`
		Digest string `json:"digest"`
		// TLSVerify is true unless it says otherwise.
		TLSVerify *bool  `json:"tls-verify"`
		Transport string `json:"containers-transport"`
		// Location is a graph root, "" for that of storage.conf.
		Location string `json:"storage-location"`
	} `json:"image"`
}

// fetchers is how many images are fetched at the same time.
const fetchers = 4

// skopeo fetches images as directories named after the digest of their
// configuration, which does not change with how layers are compressed.
func skopeo(ctx context.Context, _ *module.Service, d *module.Download) ([]module.ItemResult, error) {
	return eachImage(ctx, d, skopeoOne)
}

// skopeoIndex fetches lists of images for several platforms, as files.
func skopeoIndex(ctx context.Context, _ *module.Service, d *module.Download) ([]module.ItemResult, error) {
	return eachImage(ctx, d, indexOne)
}

func eachImage(ctx context.Context, d *module.Download, one func(context.Context, *module.Download, string, *containerItem) (bool, error)) ([]module.ItemResult, error) {
	keys := sortedKeys(d.Items)
	results := make([]module.ItemResult, len(keys))
	var group errgroup.Group
	group.SetLimit(fetchers)
	for i, key := range keys {
		group.Go(func() error {
			var item containerItem
			err := json.Unmarshal(d.Items[key], &item)
			if err == nil && key != filepath.Base(key) {
				err = errors.New("is no checksum")
			}
			cached := false
			if err == nil {
				cached, err = one(ctx, d, key, &item)
			}
			if err != nil {
				results[i] = failed(key, fmt.Errorf("image %s: %w", key, err))
			} else {
				results[i] = succeeded(key, cached)
			}
			return nil
		})
	}
	return results, group.Wait()
}

// imageFolder is where an item's directory holds the image (osbuild's source of
// the same name).
const imageFolder = "image"

func skopeoOne(ctx context.Context, d *module.Download, id string, item *containerItem) (cached bool, err error) {
	target := filepath.Join(d.Cache, id, imageFolder)
	if _, err := os.Stat(target); err == nil {
		return true, nil
	}
	tmp, err := os.MkdirTemp(d.Tmp, "image-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	dir := filepath.Join(tmp, imageFolder)
	if err := item.fetch(ctx, item.Image.Digest, dir); err != nil {
		return false, err
	}
	got, err := configDigest(ctx, dir)
	if err != nil {
		return false, err
	}
	if got != id {
		return false, fmt.Errorf("%s@%s has the id %s; nothing was stored", item.Image.Name, item.Image.Digest, got)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return false, err
	}
	err = os.Rename(dir, target)
	if errors.Is(err, fs.ErrExist) {
		return false, nil // another build was quicker
	}
	return false, err
}

func indexOne(ctx context.Context, d *module.Download, id string, item *containerItem) (cached bool, err error) {
	target := filepath.Join(d.Cache, id)
	if _, err := os.Stat(target); err == nil {
		return true, nil
	}
	src, err := item.open(ctx, id)
	if err != nil {
		return false, err
	}
	defer src.Close()
	data, kind, err := src.GetManifest(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("%s: %w", item.Image.Name, err)
	}
	if !manifest.MIMETypeIsMultiImage(kind) {
		return false, fmt.Errorf("%s is no list of images, but %s", item.Image.Name, kind)
	}
	if got, err := manifest.Digest(data); err != nil || got.String() != id {
		return false, errors.Join(fmt.Errorf("the list of %s has the digest %s; nothing was stored", item.Image.Name, got), err)
	}
	f, err := os.CreateTemp(d.Tmp, "index-")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	return false, errors.Join(err, f.Chmod(0o644), f.Close(), os.Rename(f.Name(), target))
}

// system are the settings of the registry libraries for the item. Credentials
// come from where podman has them.
func (item *containerItem) system() *types.SystemContext {
	sys := &types.SystemContext{}
	if item.Image.TLSVerify != nil && !*item.Image.TLSVerify {
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
		sys.OCIInsecureSkipTLSVerify = true
	}
	return sys
}

// reference is the image with that digest.
func (item *containerItem) reference(want string) (types.ImageReference, error) {
	name := item.Image.Name + "@" + want
	switch item.Image.Transport {
	case "", "docker":
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return nil, fmt.Errorf("name %q: %w", name, err)
		}
		return docker.NewReference(named)
	case "containers-storage":
		st, err := openStorage(item.Image.Location)
		if err != nil {
			return nil, err
		}
		return imagestorage.Transport.ParseStoreReference(st, name)
	}
	return nil, fmt.Errorf("containers-transport %q: use docker or containers-storage", item.Image.Transport)
}

func (item *containerItem) open(ctx context.Context, want string) (types.ImageSource, error) {
	ref, err := item.reference(want)
	if err != nil {
		return nil, err
	}
	src, err := ref.NewImageSource(ctx, item.system())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", item.Image.Name, err)
	}
	return src, nil
}

// fetch copies the image with that digest to dir, in the form that keeps its
// manifest and signatures. If it is a list, the image for this platform is taken.
func (item *containerItem) fetch(ctx context.Context, want, dir string) (err error) {
	if _, err := digest.Parse(want); err != nil {
		return fmt.Errorf("digest %q: %w", want, err)
	}
	src, err := item.open(ctx, want)
	if err != nil {
		return err
	}
	defer src.Close()
	top := image.UnparsedInstance(src, nil)
	policy, err := item.policy()
	if err != nil {
		return err
	}
	defer policy.Destroy()
	if ok, err := policy.IsRunningImageAllowed(ctx, top); !ok {
		return fmt.Errorf("%s: the machine's policy for images does not allow it: %w", item.Image.Name, err)
	}
	instance, err := instanceOf(ctx, top, item.system())
	if err != nil {
		return fmt.Errorf("%s: %w", item.Image.Name, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	to, err := directory.NewReference(dir)
	if err != nil {
		return err
	}
	dst, err := to.NewImageDestination(ctx, nil)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := copyImage(ctx, src, dst, instance); err != nil {
		return fmt.Errorf("%s@%s: %w", item.Image.Name, want, err)
	}
	return dst.Commit(ctx, top)
}

// instanceOf is the image for this platform in a list, nil if it is no list.
func instanceOf(ctx context.Context, top *image.UnparsedImage, sys *types.SystemContext) (*digest.Digest, error) {
	data, kind, err := top.Manifest(ctx)
	if err != nil || !manifest.MIMETypeIsMultiImage(kind) {
		return nil, err
	}
	list, err := manifest.ListFromBlob(data, kind)
	if err != nil {
		return nil, err
	}
	chosen, err := list.ChooseInstance(sys)
	if err != nil {
		return nil, err
	}
	return &chosen, nil
}

// copyImage copies layers, configuration, signatures and manifest as they are.
func copyImage(ctx context.Context, src types.ImageSource, dst types.ImageDestination, instance *digest.Digest) error {
	img, err := image.FromUnparsedImage(ctx, nil, image.UnparsedInstance(src, instance))
	if err != nil {
		return err
	}
	done := map[digest.Digest]bool{}
	for _, blob := range append(img.LayerInfos(), img.ConfigInfo()) {
		if blob.Digest == "" || done[blob.Digest] {
			continue // a manifest of schema 1 has no configuration of its own
		}
		done[blob.Digest] = true
		if err := copyBlob(ctx, src, dst, blob, blob.Digest == img.ConfigInfo().Digest); err != nil {
			return fmt.Errorf("blob %s: %w", blob.Digest, err)
		}
	}
	signatures, err := src.GetSignatures(ctx, instance)
	if err != nil {
		return err
	}
	if err := dst.PutSignatures(ctx, signatures, nil); err != nil {
		return err
	}
	data, _, err := img.Manifest(ctx)
	if err != nil {
		return err
	}
	return dst.PutManifest(ctx, data, nil)
}

func copyBlob(ctx context.Context, src types.ImageSource, dst types.ImageDestination, blob types.BlobInfo, config bool) error {
	r, size, err := src.GetBlob(ctx, blob, none.NoCache)
	if err != nil {
		return err
	}
	defer r.Close()
	verifier := blob.Digest.Verifier()
	_, err = dst.PutBlob(ctx, io.TeeReader(r, verifier), types.BlobInfo{Digest: blob.Digest, Size: size}, none.NoCache, config)
	if err == nil && !verifier.Verified() {
		err = errors.New("its content has another digest")
	}
	return err
}

// policy is that of the machine, as for skopeo and podman; without one images
// are taken by their digest alone.
func (item *containerItem) policy() (*signature.PolicyContext, error) {
	policy, err := signature.DefaultPolicy(item.system())
	if errors.Is(err, fs.ErrNotExist) {
		policy = &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}
	} else if err != nil {
		return nil, fmt.Errorf("read the policy for images: %w", err)
	}
	return signature.NewPolicyContext(policy)
}

// configDigest is the id of the image in dir: the digest of its configuration.
func configDigest(ctx context.Context, dir string) (string, error) {
	ref, err := directory.NewReference(dir)
	if err != nil {
		return "", err
	}
	src, err := ref.NewImageSource(ctx, nil)
	if err != nil {
		return "", err
	}
	defer src.Close()
	img, err := image.FromUnparsedImage(ctx, nil, image.UnparsedInstance(src, nil))
	if err != nil {
		return "", err
	}
	config, err := img.ConfigBlob(ctx)
	if err != nil {
		return "", err
	}
	return digest.FromBytes(config).String(), nil
}

// openStorage opens the user's containers/storage, or that with the graph root.
func openStorage(root string) (storage.Store, error) {
	opts, err := storage.DefaultStoreOptions()
	if err != nil {
		return nil, fmt.Errorf("read storage.conf: %w", err)
	}
	if root != "" {
		opts = storagetypes.StoreOptions{GraphRoot: root, RunRoot: opts.RunRoot, GraphDriverName: "overlay"}
	}
	st, err := storage.GetStore(opts)
	if err != nil {
		return nil, fmt.Errorf("open the storage of containers: %w", err)
	}
	return st, nil
}
