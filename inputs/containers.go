package inputs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// archive is what a stage is told about an image.
type archive struct {
	// Format is the transport that reads it: "dir", "oci-archive" or
	// "containers-storage".
	Format string `json:"format"`
	// Name is what the stage is to call the image.
	Name string `json:"name"`
	// Storage is how the container storage is made that the image is in, or
	// nil.
	Storage *storageConf `json:"storage,omitempty"`
}

// containers provides images: downloads as folders under their ids, or the
// archive in a pipeline's tree.
func containers(_ context.Context, call *module.MapCall, store *module.StoreClient) (any, error) {
	archives := map[string]archive{}
	switch call.Origin {
	case "org.osbuild.source":
		folder, err := store.Source("org.osbuild.containers")
		if err != nil {
			return nil, fmt.Errorf("find the folder of images: %w", err)
		}
		for _, id := range sortedRefs(call.Refs) {
			name, err := imageName(call, id)
			if err != nil {
				return nil, err
			}
			if err := provideImage(folder, id, call.Target); err != nil {
				return nil, err
			}
			archives[id] = archive{Format: "dir", Name: name}
		}
	case "org.osbuild.pipeline":
		ids := sortedRefs(call.Refs)
		if len(ids) != 1 {
			return nil, fmt.Errorf("an archive comes from one pipeline, got %d references", len(ids))
		}
		name, err := imageName(call, ids[0])
		if err != nil {
			return nil, err
		}
		if err := store.ReadTreeAt(ids[0], call.Target, "/"); err != nil {
			return nil, fmt.Errorf("provide the archive: %w", err)
		}
		file, err := firstFile(call.Target)
		if err != nil {
			return nil, err
		}
		archives[file] = archive{Format: "oci-archive", Name: name}
	default:
		return nil, fmt.Errorf("origin %q is none that images come from: use org.osbuild.source or org.osbuild.pipeline", call.Origin)
	}
	return map[string]any{"path": call.Target, "data": map[string]any{"archives": archives}}, nil
}

// imageName returns the name that the reference gives to the image.
func imageName(call *module.MapCall, id string) (string, error) {
	var ref struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(call.Refs[id], &ref); err != nil {
		return "", fmt.Errorf("decode reference %q: %w", id, err)
	}
	if ref.Name == "" {
		return "", fmt.Errorf("reference %q gives the image no name", id)
	}
	return ref.Name, nil
}

// provideImage shows a downloaded image below target, under its id.
func provideImage(folder, id, target string) error {
	if id != filepath.Base(id) || !filepath.IsLocal(id) || id == "." {
		return fmt.Errorf("reference %q is no id of an image", id)
	}
	err := bindReadOnly(filepath.Join(folder, id, "image"), filepath.Join(target, id))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("image %s is not among the downloads: name it in the manifest's source org.osbuild.skopeo", id)
	}
	if err != nil {
		return fmt.Errorf("provide image %s: %w", id, err)
	}
	return nil
}

// firstFile returns the name of the first file in a tree's root directory.
func firstFile(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("find the archive: %w", err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			return e.Name(), nil
		}
	}
	return "", errors.New("the pipeline's tree has no file in its root directory, where the archive has to be")
}

// bindReadOnly mounts the directory from, with what is mounted below it, at to,
// which it makes if need be. Nothing can be changed or removed through the new
// mount.
func bindReadOnly(from, to string) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return &os.PathError{Op: "open", Path: from, Err: err}
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("make %s read-only: %w", from, err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", from, err)
	}
	return nil
}
