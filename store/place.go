package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/hoststorage"
)

// containersPrefix begins the name of a store that is in podman's storage.
const containersPrefix = "containers:"

// Directory is that of the store of that name: a path, or "containers:" for podman's storage of this
// user, or "containers:PATH" for one at another place. In podman's storage it is the folder "ossify".
func Directory(name string) (string, error) {
	graph, ok := strings.CutPrefix(name, containersPrefix)
	if !ok {
		return filepath.Abs(name)
	}
	if graph == "" {
		options, err := hoststorage.Options()
		if err != nil {
			return "", err
		}
		if options.GraphDriverName != "overlay" {
			return "", fmt.Errorf("podman's storage %s has the driver %q, ossify needs overlay: choose another store with --store", options.GraphRoot, options.GraphDriverName)
		}
		graph = options.GraphRoot
	}
	graph, err := filepath.Abs(graph)
	return filepath.Join(graph, "ossify"), err
}

// prepare makes the directory of the store of that name. In podman's storage "storage" is a link to what
// it is in.
func prepare(name, dir string) error {
	if strings.HasPrefix(name, containersPrefix) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Symlink("..", filepath.Join(dir, "storage")); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, sub := range []string{"storage", "sources", "lib", "digests", "run", "used"} {
		path := filepath.Join(dir, sub)
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			continue
		}
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// graphRoot is the directory of the storage of the store in dir.
func graphRoot(dir string) string {
	path := filepath.Join(dir, "storage")
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}
