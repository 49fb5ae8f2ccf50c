package stages

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/overlay"
	"go.podman.io/storage/pkg/archive"
)

const containerDeployStage = "org.osbuild.container-deploy"

type containerDeployOptions struct {
	Exclude []string `json:"exclude"`
	// RemoveSignatures does nothing, as in osbuild.
	RemoveSignatures bool `json:"remove-signatures"`
}

// containerDeploy makes the tree that of the one image of the input "images". Unlike osbuild's it needs
// no podman in the build root.
func containerDeploy(ctx context.Context, args *module.Args, options containerDeployOptions) error {
	images, err := containerImages(ctx, args, containerDeployStage)
	if err != nil {
		return err
	}
	if len(images) != 1 {
		return fmt.Errorf(`the input "images" has %d images, the tree can be of one`, len(images))
	}
	if err := deploy(ctx, args, &images[0]); err != nil {
		return fmt.Errorf("deploy image %s: %w", images[0].Name, err)
	}
	for _, name := range options.Exclude {
		path, err := treeEntry(args, name)
		if err != nil {
			return fmt.Errorf("exclude %s: %w", name, err)
		}
		if path == args.Tree {
			return fmt.Errorf("exclude %q: that is the whole tree", name)
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("exclude %s: %w", name, err)
		}
	}
	return nil
}

// deploy unpacks the layers of an image, one over the other.
func deploy(ctx context.Context, args *module.Args, i *containerImage) error {
	if i.Format == "containers-storage" {
		return deployStored(ctx, args, i)
	}
	// What podman gives the root of an image that does not say what its mode is.
	if err := os.Chmod(args.Tree, 0o555); err != nil {
		return err
	}
	switch i.Format {
	case "dir":
		return deployBlobs(args.Tree, func(name string) (io.ReadCloser, error) {
			if name != "manifest.json" {
				name = digest.Digest(name).Encoded()
			}
			return os.Open(filepath.Join(i.path, name))
		}, "manifest.json")
	default:
		return deployArchive(args.Tree, i.path)
	}
}

// imageManifest is what there is to know of a manifest, or of a list of manifests
// (OCI image specification, manifest.md and image-index.md).
type imageManifest struct {
	Layers    []imageBlob `json:"layers"`
	Manifests []imageBlob `json:"manifests"`
}

type imageBlob struct {
	Digest digest.Digest `json:"digest"`
}

// deployBlobs unpacks the layers of the manifest; open opens it, and blobs by their digests.
func deployBlobs(tree string, open func(name string) (io.ReadCloser, error), manifest string) (err error) {
	var m imageManifest
	if err := readBlob(open, manifest, func(r io.Reader) error { return json.NewDecoder(r).Decode(&m) }); err != nil {
		return fmt.Errorf("its manifest: %w", err)
	}
	if len(m.Manifests) > 0 {
		if len(m.Manifests) > 1 {
			return fmt.Errorf("it is a list of %d images", len(m.Manifests))
		}
		return deployBlobs(tree, open, m.Manifests[0].Digest.String())
	}
	for _, layer := range m.Layers {
		err := readBlob(open, layer.Digest.String(), func(r io.Reader) error {
			content, err := archive.DecompressStream(r)
			if err != nil {
				return err
			}
			_, err = archive.ApplyUncompressedLayer(tree, content, &archive.TarOptions{InUserNS: true})
			return errors.Join(err, content.Close())
		})
		if err != nil {
			return fmt.Errorf("its layer %s: %w", layer.Digest, err)
		}
	}
	return nil
}

// readBlob has a blob read and sees that it is what its digest says, if its name is one.
func readBlob(open func(string) (io.ReadCloser, error), name string, read func(io.Reader) error) (err error) {
	want := digest.Digest(name)
	verify := want.Validate() == nil
	f, err := open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if !verify {
		return read(f)
	}
	verifier := want.Verifier()
	tee := io.TeeReader(f, verifier)
	if err := read(tee); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if !verifier.Verified() {
		return fmt.Errorf("its content is not %s", name)
	}
	return nil
}

// deployArchive is deployBlobs for the OCI image layout in a tar archive, of which the index is the manifest.
func deployArchive(tree, path string) error {
	return deployBlobs(tree, func(name string) (io.ReadCloser, error) {
		if d := digest.Digest(name); d.Validate() == nil {
			name = "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		members := tar.NewReader(f)
		for {
			h, err := members.Next()
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the archive has no file %s", name)
			}
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
			if strings.TrimPrefix(h.Name, "./") == name {
				return struct {
					io.Reader
					io.Closer
				}{members, f}, nil
			}
		}
	}, "index.json")
}

// deployStored copies an image of a container storage with the driver overlay: the directories of
// its layers are mounted one over the other, as podman does it.
func deployStored(ctx context.Context, args *module.Args, i *containerImage) (err error) {
	if driver := orDefault(i.Storage.Driver, "overlay"); driver != "overlay" {
		return fmt.Errorf("the container storage has the driver %q: an image can be deployed from overlay only", driver)
	}
	dirs, err := storedLayers(i)
	if err != nil {
		return err
	}
	mount, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	unmount, err := (&overlay.Stack{Lower: dirs}).Mount(mount)
	if err != nil {
		return errors.Join(err, os.Remove(mount))
	}
	defer func() { err = errors.Join(err, unmount(), os.Remove(mount)) }()
	cmd, err := hostCommand(ctx, args, containerDeployStage, "cp", "-a", "--reflink=auto", mount+"/.", args.Tree+"/")
	if err != nil {
		return err
	}
	return run(cmd)
}

type storedImage struct {
	ID    string `json:"id"`
	Layer string `json:"layer"`
}

// storedLayers are the directories of the image's layers, the highest first.
func storedLayers(i *containerImage) (dirs []string, err error) {
	var images []storedImage
	if err := readRecord(filepath.Join(i.path, "overlay-images", "images.json"), &images); err != nil {
		return nil, err
	}
	var layers []struct {
		ID     string `json:"id"`
		Parent string `json:"parent"`
	}
	if err := readRecord(filepath.Join(i.path, "overlay-layers", "layers.json"), &layers); err != nil {
		return nil, err
	}
	parent := map[string]string{}
	for _, l := range layers {
		parent[l.ID] = l.Parent
	}
	_, id, _ := strings.Cut(i.id, ":")
	at := slices.IndexFunc(images, func(image storedImage) bool { return image.ID == id })
	if at < 0 {
		return nil, fmt.Errorf("the container storage has no image %s", id)
	}
	for layer := images[at].Layer; layer != ""; layer = parent[layer] {
		if _, ok := parent[layer]; !ok || len(dirs) > len(layers) {
			return nil, fmt.Errorf("the container storage lacks the layer %s of the image", layer)
		}
		dirs = append(dirs, filepath.Join(i.path, "overlay", layer, "diff"))
	}
	return dirs, nil
}

func readRecord(path string, record any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, record); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
