package store

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"go.podman.io/storage"
	drivers "go.podman.io/storage/drivers"
	"go.podman.io/storage/types"
)

// guarded is a storage.Store for a process that may be out of descriptors, or on a disk
// that fails: where containers/storage cannot take a lock it panics, and what it holds of
// others it never lets go, so that every later call, and with it the end of the build,
// would wait for ever. The methods that this package uses end the process then; what it
// leaves is swept, as after a kill.
type guarded struct{ storage.Store }

// guard is deferred by what calls containers/storage.
func guard() {
	switch fault := recover().(type) {
	case nil:
	case runtime.Error:
		panic(fault)
	default:
		fmt.Fprintf(os.Stderr, "ossify: lock the store: %v\n", fault)
		os.Exit(1)
	}
}

// openStorage opens the graph root in dir. containers/storage loads the configuration of
// podman, of which it needs nothing then; so that nothing that is wrong with it, or with
// the directories that it names, is the build's fault, it gets an empty one.
func openStorage(dir, memory string) (storage.Store, error) {
	defer guard()
	for name, value := range map[string]string{
		"CONTAINERS_STORAGE_CONF": os.DevNull, "CONTAINERS_STORAGE_CONF_OVERRIDE": "",
		"XDG_RUNTIME_DIR": memory, "XDG_DATA_HOME": memory, "XDG_CONFIG_HOME": memory,
	} {
		if old, ok := os.LookupEnv(name); ok {
			defer os.Setenv(name, old)
		} else {
			defer os.Unsetenv(name)
		}
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	// It would hold what is mounted by containers/storage: nothing.
	runRoot := filepath.Join(memory, "storage")
	// To find out whether it could map ids, which nobody asks it to, the driver would
	// start a copy of this process, which outlives it, with its locks, if it is killed
	// before the copy has asked for a death signal.
	if err := os.MkdirAll(filepath.Join(runRoot, "overlay"), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(runRoot, "overlay", "idmapped-lower-dir-false"), nil, 0o600); err != nil {
		return nil, err
	}
	st, err := storage.GetStore(types.StoreOptions{RunRoot: runRoot, GraphRoot: dir, GraphDriverName: "overlay"})
	if err != nil {
		return nil, err
	}
	return guarded{st}, nil
}

func (g guarded) AddNames(id string, names []string) error {
	defer guard()
	return g.Store.AddNames(id, names)
}

func (g guarded) Check(o *storage.CheckOptions) (storage.CheckReport, error) {
	defer guard()
	return g.Store.Check(o)
}

func (g guarded) CreateImage(id string, names []string, layer, metadata string, o *storage.ImageOptions) (*storage.Image, error) {
	defer guard()
	return g.Store.CreateImage(id, names, layer, metadata, o)
}

func (g guarded) CreateLayer(id, parent string, names []string, label string, writeable bool, o *storage.LayerOptions) (*storage.Layer, error) {
	defer guard()
	return g.Store.CreateLayer(id, parent, names, label, writeable, o)
}

func (g guarded) Delete(id string) error {
	defer guard()
	return g.Store.Delete(id)
}

func (g guarded) DeleteLayer(id string) error {
	defer guard()
	return g.Store.DeleteLayer(id)
}

func (g guarded) Diff(from, to string, o *storage.DiffOptions) (io.ReadCloser, error) {
	defer guard()
	return g.Store.Diff(from, to, o)
}

func (g guarded) Exists(id string) bool {
	defer guard()
	return g.Store.Exists(id)
}

func (g guarded) GraphDriver() (drivers.Driver, error) {
	defer guard()
	return g.Store.GraphDriver()
}

func (g guarded) Image(id string) (*storage.Image, error) {
	defer guard()
	return g.Store.Image(id)
}

func (g guarded) Images() ([]storage.Image, error) {
	defer guard()
	return g.Store.Images()
}

func (g guarded) Layer(id string) (*storage.Layer, error) {
	defer guard()
	return g.Store.Layer(id)
}

func (g guarded) LayerBigData(id, key string) (io.ReadCloser, error) {
	defer guard()
	return g.Store.LayerBigData(id, key)
}

func (g guarded) Layers() ([]storage.Layer, error) {
	defer guard()
	return g.Store.Layers()
}

func (g guarded) RemoveNames(id string, names []string) error {
	defer guard()
	return g.Store.RemoveNames(id, names)
}

func (g guarded) SetLayerBigData(id, key string, data io.Reader) error {
	defer guard()
	return g.Store.SetLayerBigData(id, key, data)
}

func (g guarded) SetNames(id string, names []string) error {
	defer guard()
	return g.Store.SetNames(id, names)
}

func (g guarded) Shutdown(force bool) ([]string, error) {
	defer guard()
	return g.Store.Shutdown(force)
}
