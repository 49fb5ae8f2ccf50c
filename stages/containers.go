package stages

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// containerImage is an image of the input "images".
type containerImage struct {
	// Format is the transport that reads it: "dir", "oci-archive" or
	// "containers-storage".
	Format string `json:"format"`
	// Name is what the manifest calls the image.
	Name    string `json:"name"`
	Storage struct {
		Driver *string `json:"driver"`
	} `json:"storage"`

	// path is where the image is, id its checksum or the archive's name.
	path, id string
	// list is the manifest list that stands for the image, or "".
	list string
}

// containerImages returns the images of the input "images" in their order, each
// with its manifest list of the input "manifest-lists".
func containerImages(ctx context.Context, args *module.Args, stage string) ([]containerImage, error) {
	input := args.Inputs["images"]
	if input.Data.Archives == nil {
		return nil, errors.New(`the stage lacks the input "images"`)
	}
	var archives ordered[containerImage]
	if err := json.Unmarshal(input.Data.Archives, &archives); err != nil {
		return nil, fmt.Errorf(`input "images": %w`, err)
	}
	lists, err := manifestLists(args)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	var images []containerImage
	for _, archive := range archives {
		image := archive.value
		image.id, image.path = archive.name, filepath.Join(input.Path, archive.name)
		switch image.Format {
		case "containers-storage":
			image.path = filepath.Join(input.Path, "storage")
		case "dir":
			digest, err := manifestDigest(ctx, args, stage, image.path)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", image.id, err)
			}
			image.list = lists[digest]
			used[image.list] = true
		case "oci-archive":
		default:
			return nil, fmt.Errorf("image %s: unknown format %q: known are containers-storage, dir and oci-archive", image.id, image.Format)
		}
		images = append(images, image)
	}
	for name := range args.Inputs["manifest-lists"].Data.Files {
		if !used[filepath.Join(args.Inputs["manifest-lists"].Path, name)] {
			return nil, fmt.Errorf(`file %s of the input "manifest-lists" is the list of none of the images`, name)
		}
	}
	return images, nil
}

// manifestLists returns the files of the input "manifest-lists" by the digests of
// the manifests that they list.
func manifestLists(args *module.Args) (map[string]string, error) {
	input := args.Inputs["manifest-lists"]
	lists := map[string]string{}
	for name := range input.Data.Files {
		path := filepath.Join(input.Path, name)
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var list struct {
			Manifests []struct {
				Digest string `json:"digest"`
			} `json:"manifests"`
		}
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, fmt.Errorf("manifest list %s: %w", name, err)
		}
		for _, manifest := range list.Manifests {
			lists[manifest.Digest] = path
		}
	}
	return lists, nil
}

// manifestDigest returns the digest of the manifest of an image in a directory.
func manifestDigest(ctx context.Context, args *module.Args, stage, image string) (string, error) {
	cmd, err := hostCommand(ctx, args, stage, "skopeo", "manifest-digest", filepath.Join(image, "manifest.json"))
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := module.RunTool(cmd, &out); err != nil {
		return "", err
	}
	return strings.TrimSpace(out.String()), nil
}

// source returns the image as skopeo names it. The caller calls release, which
// is never nil, when skopeo is done.
func (i *containerImage) source(ctx context.Context, args *module.Args, stage string) (name string, release func() error, err error) {
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return "", func() error { return nil }, err
	}
	release = func() error { return os.RemoveAll(dir) }
	if i.Format == "containers-storage" {
		name, release, err := i.storageSource(dir)
		return name, release, err
	}
	// Without a colon, which would mean something to skopeo.
	link := filepath.Join(dir, "image")
	if i.list == "" {
		return i.Format + ":" + link, release, os.Symlink(i.path, link)
	}
	cmd, err := hostCommand(ctx, args, stage, "cp", "-a", "--reflink=auto", i.path, link)
	if err == nil {
		err = run(cmd)
	}
	if err == nil {
		err = mergeManifestList(ctx, args, stage, link, i.list)
	}
	if err != nil {
		return "", release, fmt.Errorf("merge the manifest list of image %s: %w", i.id, err)
	}
	return i.Format + ":" + link, release, nil
}

// storageSource names an image of a container storage. Only the driver overlay
// reads storages beside its own, which then is an empty one in dir.
func (i *containerImage) storageSource(dir string) (name string, release func() error, err error) {
	release = func() error {
		// The driver makes a mount of its folder.
		err := unix.Unmount(filepath.Join(dir, "overlay"), unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return os.RemoveAll(dir)
	}
	_, id, ok := strings.Cut(i.id, ":")
	if !ok {
		return "", release, fmt.Errorf("image %s is named by no checksum", i.id)
	}
	if driver := orDefault(i.Storage.Driver, "overlay"); driver != "overlay" {
		return fmt.Sprintf("containers-storage:[%s@%s+/run/containers/storage]%s", driver, i.path, id), release, nil
	}
	return fmt.Sprintf("containers-storage:[overlay@%s+/run/containers/storage:additionalimagestore=%s]%s", dir, i.path, id), release, nil
}

// mergeManifestList makes the list the manifest of an image in a directory, so
// that the image can be had by the list's digest too. What was its manifest is
// beside it, under its digest.
func mergeManifestList(ctx context.Context, args *module.Args, stage, image, list string) error {
	digest, err := manifestDigest(ctx, args, stage, image)
	if err != nil {
		return err
	}
	_, sum, ok := strings.Cut(digest, ":")
	if !ok {
		return fmt.Errorf("skopeo says that the manifest has the digest %q", digest)
	}
	manifest := filepath.Join(image, "manifest.json")
	if err := os.Rename(manifest, filepath.Join(image, sum+".manifest.json")); err != nil {
		return err
	}
	cmd, err := hostCommand(ctx, args, stage, "cp", "--reflink=auto", "-a", list, manifest)
	if err != nil {
		return err
	}
	return run(cmd)
}
