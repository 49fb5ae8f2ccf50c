// Package hoststorage finds the container storage that podman uses for the
// person who builds: root's, or an ordinary user's own. It does not open it.
package hoststorage

import (
	"fmt"
	"os"
	"path/filepath"

	"go.podman.io/storage/pkg/homedir"
	"go.podman.io/storage/pkg/unshare"
	"go.podman.io/storage/types"
)

// systemGraphRoot is root's storage. Distributions name it in storage.conf for
// everybody, which podman does not apply to ordinary users.
const systemGraphRoot = "/var/lib/containers/storage"

// Options returns where the storage is and how it is made, from storage.conf as
// podman reads it. The directory need not exist.
func Options() (types.StoreOptions, error) {
	opts, err := types.LoadStoreOptions(types.LoadOptions{})
	if err != nil {
		return opts, fmt.Errorf("find the container storage: %w", err)
	}
	if opts.GraphRoot == systemGraphRoot && unshare.GetRootlessUID() > 0 {
		data, err := homedir.GetDataHome()
		if err != nil {
			return opts, fmt.Errorf("find the container storage: %w", err)
		}
		opts.GraphRoot = filepath.Join(data, "containers", "storage")
	}
	if opts.GraphDriverName == "" {
		opts.GraphDriverName = driver(opts.GraphRoot)
	}
	return opts, nil
}

// driver is what podman takes where nothing is configured: the one that was used
// before, else overlay.
func driver(graphRoot string) string {
	for _, name := range []string{"overlay", "vfs"} {
		if _, err := os.Stat(filepath.Join(graphRoot, name+"-images")); err == nil {
			return name
		}
	}
	return "overlay"
}
