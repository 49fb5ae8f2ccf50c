package inputs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// fileRef are the options of one reference.
type fileRef struct {
	// Metadata is passed on to the stage.
	Metadata map[string]json.RawMessage `json:"metadata"`
	// File is a path in the pipeline's tree; sources have none.
	File string `json:"file"`
}

// files provides single files: a source's under their checksum, a pipeline's
// under their path in its tree.
func files(_ context.Context, call *module.MapCall, store *module.StoreClient) (any, error) {
	provide := sourceFile
	folder := ""
	switch call.Origin {
	case "org.osbuild.source":
		dir, err := store.Source("org.osbuild.files")
		if err != nil {
			return nil, fmt.Errorf("find the folder of downloads: %w", err)
		}
		folder = dir
	case "org.osbuild.pipeline":
		provide = treeFile
	default:
		return nil, fmt.Errorf("origin %q is none that files come from: use org.osbuild.source or org.osbuild.pipeline", call.Origin)
	}
	provided := map[string]map[string]json.RawMessage{}
	for _, id := range sortedRefs(call.Refs) {
		var ref fileRef
		if err := json.Unmarshal(call.Refs[id], &ref); err != nil {
			return nil, fmt.Errorf("decode reference %q: %w", id, err)
		}
		name, err := provide(store, folder, id, &ref, call.Target)
		if err != nil {
			return nil, err
		}
		if provided[name] = ref.Metadata; ref.Metadata == nil {
			provided[name] = map[string]json.RawMessage{} // the ABI wants an object
		}
	}
	return map[string]any{"path": call.Target, "data": map[string]any{"files": provided}}, nil
}

// sortedRefs lists the ids so that the same call always does the same.
func sortedRefs(refs map[string]json.RawMessage) []string {
	ids := make([]string, 0, len(refs))
	for id := range refs {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return ids
}

// sourceFile provides a downloaded file.
func sourceFile(_ *module.StoreClient, folder, checksum string, ref *fileRef, target string) (string, error) {
	if ref.File != "" {
		return "", fmt.Errorf("reference %q: only a reference to a pipeline has a file", checksum)
	}
	if checksum != filepath.Base(checksum) || !filepath.IsLocal(checksum) || checksum == "." {
		return "", fmt.Errorf("reference %q is no checksum", checksum)
	}
	from, to := filepath.Join(folder, checksum), filepath.Join(target, checksum)
	err := provideFile(from, to)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s is not among the downloads: name it in the manifest's sources", checksum)
	}
	if err != nil {
		return "", fmt.Errorf("provide %s: %w", checksum, err)
	}
	return checksum, nil
}

// bindFrom is the size in bytes from which a mount is cheaper than a copy: a
// mount takes about as long as copying that much.
const bindFrom = 1 << 20

// provideFile shows the file at from under the name to: as a hard link, and
// where that cannot be, as another mount is in between or the file is somebody
// else's (fs.protected_hardlinks), as a mount if it is large, or as a copy. The
// stage sees it read-only, as the engine shows it all inputs.
func provideFile(from, to string) error {
	err := os.Link(from, to)
	if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EMLINK) {
		return err
	}
	st, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if st.Size() >= bindFrom && bindFile(from, to) == nil {
		return nil
	}
	return copyFile(from, to)
}

// bindFile mounts the file; it leaves nothing behind if that is not allowed.
func bindFile(from, to string) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = f.Close()
	if err == nil {
		err = unix.Mount(from, to, "", unix.MS_BIND, "")
	}
	if err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// treeFile provides a file of a pipeline's tree: it is mounted, not copied.
func treeFile(store *module.StoreClient, _, id string, ref *fileRef, target string) (string, error) {
	name := strings.TrimLeft(ref.File, "/")
	if name == "" {
		return "", fmt.Errorf("reference %q: a reference to a pipeline needs a file", id)
	}
	if !filepath.IsLocal(name) || filepath.Clean(name) == "." {
		return "", fmt.Errorf("reference %q: the file %q leaves the tree", id, ref.File)
	}
	point := filepath.Join(target, name)
	if err := os.MkdirAll(filepath.Dir(point), 0o755); err != nil {
		return "", fmt.Errorf("provide %s: %w", name, err)
	}
	f, err := os.OpenFile(point, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("two references provide %s: take one of them away", name)
	}
	if err != nil {
		return "", fmt.Errorf("provide %s: %w", name, err)
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("provide %s: %w", name, err)
	}
	if err := store.ReadTreeAt(id, point, "/"+name); err != nil {
		return "", fmt.Errorf("provide %s: %w", name, err)
	}
	return name, nil
}
