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

// containerArchive is what a stage gets to know of an image.
type containerArchive struct {
	// Format is "dir" or "oci-archive", as skopeo(1) calls them.
	Format string `json:"format"`
	Name   string `json:"name"`
}

// containers provides images: those of sources as directories, that of a pipeline
// as the first file of its tree.
func containers(_ context.Context, call *module.MapCall, store *module.StoreClient) (any, error) {
	archives := map[string]containerArchive{}
	for _, id := range sortedRefs(call.Refs) {
		var ref struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(call.Refs[id], &ref); err != nil {
			return nil, fmt.Errorf("decode reference %q: %w", id, err)
		}
		var name, format string
		var err error
		switch call.Origin {
		case "org.osbuild.source":
			name, format = id, "dir"
			err = sourceImage(store, id, call.Target)
		case "org.osbuild.pipeline":
			format = "oci-archive"
			name, err = treeImage(store, id, call.Target)
		default:
			err = fmt.Errorf("origin %q is none that images come from: use org.osbuild.source or org.osbuild.pipeline", call.Origin)
		}
		if err != nil {
			return nil, err
		}
		archives[name] = containerArchive{Format: format, Name: ref.Name}
	}
	return map[string]any{"path": call.Target, "data": map[string]any{"archives": archives}}, nil
}

// sourceImage shows a fetched image at target/id.
func sourceImage(store *module.StoreClient, id, target string) error {
	folder, err := store.Source("org.osbuild.containers")
	if err != nil {
		return fmt.Errorf("find the folder of images: %w", err)
	}
	if id != filepath.Base(id) || !filepath.IsLocal(id) {
		return fmt.Errorf("reference %q is no checksum", id)
	}
	from, to := filepath.Join(folder, id, "image"), filepath.Join(target, id)
	if err := os.Mkdir(to, 0o755); err != nil {
		return fmt.Errorf("provide image %s: %w", id, err)
	}
	err = unix.Mount(from, to, "", unix.MS_BIND, "")
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("image %s is not among the downloads: name it in the manifest's sources", id)
	}
	if err != nil {
		return fmt.Errorf("provide image %s: %w", id, err)
	}
	return nil
}

// treeImage shows a pipeline's tree at target and returns the name of the archive
// in it.
func treeImage(store *module.StoreClient, id, target string) (string, error) {
	if err := store.ReadTreeAt(id, target, "/"); err != nil {
		return "", fmt.Errorf("provide the tree: %w", err)
	}
	entries, err := os.ReadDir(target) // sorted
	if err != nil {
		return "", fmt.Errorf("look for an archive: %w", err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() { // a link could lead out of the tree
			return e.Name(), nil
		}
	}
	return "", errors.New("the pipeline that is referred to has no file in the top folder of its tree, so there is no archive")
}
