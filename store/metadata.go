package store

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/ioutils"
	"golang.org/x/sys/unix"
)

// MetadataError says that a record of containers/storage, without which nothing in the store can
// be found, is damaged.
type MetadataError struct {
	// Path is the file; Err says what is wrong with it.
	Path string
	Err  error
}

// Error says what is damaged and what to do.
func (e *MetadataError) Error() string {
	return fmt.Sprintf("the store's record %s is damaged: %v; ossify store check --repair writes it anew", e.Path, e.Err)
}

// Unwrap returns what is wrong.
func (e *MetadataError) Unwrap() error { return e.Err }

// The records, below the directory of the storage.
const (
	layersRecord = "overlay-layers/layers.json"
	imagesRecord = "overlay-images/images.json"
)

// checkMetadata looks at the records: containers/storage takes an empty one for an empty store.
func checkMetadata(dir string) error {
	for _, record := range []string{layersRecord, imagesRecord} {
		path := filepath.Join(graphRoot(dir), record)
		st, err := os.Stat(path)
		if err == nil && st.Size() == 0 {
			return &MetadataError{path, errors.New("it is empty")}
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) || record == imagesRecord {
			continue
		}
		found, err := filepath.Glob(filepath.Join(graphRoot(dir), "overlay", "*", sumsName))
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return &MetadataError{path, fmt.Errorf("it is gone, but there are %d checkpoints", len(found))}
		}
	}
	return nil
}

// mendLinks sees that each layer has its short name, by which containers/storage mounts it. A power cut
// can leave the file that notes it empty; containers/storage, which removes layers that were in the making when it is
// opened, takes the name for "" then and removes the directory of all short names.
func mendLinks(dir string) error {
	overlayDir := filepath.Join(graphRoot(dir), "overlay")
	entries, err := os.ReadDir(overlayDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var layers []string
	whole := true
	for _, e := range entries {
		if st, err := os.Stat(filepath.Join(overlayDir, e.Name(), "link")); err == nil {
			layers = append(layers, e.Name())
			whole = whole && st.Size() > 0
		}
	}
	names, err := os.ReadDir(filepath.Join(overlayDir, "l"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if whole && len(names) >= len(layers) {
		return nil
	}
	return linkLayers(overlayDir, layers)
}

// linkLayers gives short names to layers that have none, and writes down those that have one.
func linkLayers(overlayDir string, layers []string) error {
	if err := os.MkdirAll(filepath.Join(overlayDir, "l"), 0o755); err != nil {
		return err
	}
	names, err := shortNames(overlayDir)
	if err != nil {
		return err
	}
	for _, layer := range layers {
		path := filepath.Join(overlayDir, layer, "link")
		noted, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !isShortName(string(noted)) {
			noted = nil
		}
		name := cmp.Or(string(noted), names[layer], rand.Text())
		if len(noted) == 0 {
			if err := writeFile(filepath.Dir(path), path, []byte(name)); err != nil {
				return err
			}
		}
		err = os.Symlink(filepath.Join("..", layer, "diff"), filepath.Join(overlayDir, "l", name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// isShortName says whether containers/storage, or rand.Text, could have made that name: 26 letters
// and digits.
func isShortName(name string) bool {
	return len(name) == 26 && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
}

// shortNames are the short names of layers, by layer.
func shortNames(overlayDir string) (map[string]string, error) {
	names := map[string]string{}
	entries, err := os.ReadDir(filepath.Join(overlayDir, "l"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(overlayDir, "l", e.Name())); err == nil {
			names[filepath.Base(filepath.Dir(target))] = e.Name()
		}
	}
	return names, nil
}

// explain names the record because of which the store could not be opened, if it is one.
func explain(dir string, err error) error {
	for _, record := range []string{layersRecord, imagesRecord} {
		path := filepath.Join(graphRoot(dir), record)
		data, readErr := os.ReadFile(path)
		if readErr != nil {
			continue
		}
		var list []json.RawMessage
		if err := json.Unmarshal(data, &list); err != nil {
			return &MetadataError{path, err}
		}
		if strings.Contains(err.Error(), path) {
			return &MetadataError{path, err}
		}
	}
	return err
}

// RepairMetadata writes the damaged record of a MetadataError of the store of that name anew: that of
// layers from what lies beside each checkpoint. That of images cannot be; their checkpoints stay.
// The damaged file is kept beside it, with ".damaged" after its name. kept counts the checkpoints
// that are in the new record.
func RepairMetadata(name string, damaged *MetadataError) (kept int, err error) {
	dir, err := Directory(name)
	if err != nil {
		return 0, err
	}
	lock, err := lockFile(filepath.Join(dir, useLock), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return 0, ErrBusy
	}
	if err != nil {
		return 0, fmt.Errorf("repair store %s: %w", dir, err)
	}
	defer lock.Close()
	layers := []storage.Layer{}
	if strings.HasSuffix(damaged.Path, layersRecord) {
		if layers, err = sealedLayers(dir); err != nil {
			return 0, fmt.Errorf("repair store %s: %w", dir, err)
		}
	}
	data, err := json.Marshal(layers)
	if err != nil {
		return 0, fmt.Errorf("repair store %s: %w", dir, err)
	}
	if err := os.Rename(damaged.Path, damaged.Path+".damaged"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("repair store %s: %w", dir, err)
	}
	if err := ioutils.AtomicWriteFile(damaged.Path, data, 0o600); err != nil {
		return 0, fmt.Errorf("repair store %s: %w", dir, err)
	}
	return len(layers), nil
}

// sealedLayers are the records of all checkpoints whose sums are good, and of whose base that is
// true; of several that have one name the last.
func sealedLayers(dir string) ([]storage.Layer, error) {
	found, err := filepath.Glob(filepath.Join(graphRoot(dir), "overlay", "*", sumsName))
	if err != nil {
		return nil, err
	}
	byID := map[string]storage.Layer{}
	for _, path := range found {
		layerDir := filepath.Dir(path)
		if _, end, err := readSums(layerDir); err == nil && end.Layer.ID == filepath.Base(layerDir) {
			byID[end.Layer.ID] = end.Layer
		}
	}
	layers := []storage.Layer{}
	for _, l := range byID {
		whole := true
		for p := l.Parent; p != "" && whole; p = byID[p].Parent {
			_, whole = byID[p]
		}
		if whole {
			layers = append(layers, l)
		}
	}
	slices.SortFunc(layers, func(a, b storage.Layer) int { return a.Created.Compare(b.Created) })
	names := map[string]bool{}
	for i := len(layers) - 1; i >= 0; i-- {
		// An older one of the same name has another key; it may be the base of others.
		layers[i].Names = slices.DeleteFunc(layers[i].Names, func(name string) bool { return names[name] })
		for _, name := range layers[i].Names {
			names[name] = true
		}
	}
	return layers, nil
}
