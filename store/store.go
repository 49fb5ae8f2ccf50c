package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ossify/ossify/overlay"
	"github.com/sirupsen/logrus"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

const (
	flagRun = "ossify"
	flagKey = "ossify-key"
	// flagOrigin is the layer's Origin.
	flagOrigin = "ossify-origin"
	metaKey    = "ossify-metadata"
	// recordKey is the side record of the layer's whole tree.
	recordKey = "ossify-record"
	// failedPrefix begins the name of the layer that a failed stage left.
	failedPrefix = "ossify-failed-"
)

// Store is an open store. Its methods are safe for concurrent use, and several
// processes can have the same store open.
type Store struct {
	dir     string
	run     *run
	storage storage.Store
}

// Open opens the store of that name (see Directory), making it if need be, and removes what
// interrupted builds have left. rundir is where Memory's directories are, "" for
// a place in the store. The caller closes it.
func Open(name, rundir string) (*Store, error) {
	dir, err := Directory(name)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := prepare(name, dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	inUse, err := lockFile(filepath.Join(dir, useLock), unix.LOCK_SH)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	run, err := newRun(filepath.Join(dir, "run"), rundir)
	if err != nil {
		inUse.Close()
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	run.inUse = inUse
	if err := errors.Join(checkMetadata(dir), mendLinks(dir)); err != nil {
		run.close()
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	// What containers/storage logs it also returns.
	logrus.SetLevel(logrus.PanicLevel)
	st, err := openStorage(graphRoot(dir), run.memory)
	if err != nil {
		run.close()
		return nil, fmt.Errorf("open store %s: %w", dir, explain(dir, err))
	}
	if name := st.GraphDriverName(); name != "overlay" {
		run.close()
		return nil, fmt.Errorf("store %s uses the storage driver %q, ossify needs overlay: choose another directory with --store", dir, name)
	}
	s := &Store{dir: dir, run: run, storage: st}
	if err := s.sweep(); err != nil {
		s.Close()
		return nil, fmt.Errorf("clean up store %s: %w", dir, explain(dir, err))
	}
	return s, nil
}

// Close removes this run's scratch and lets go of the store.
func (s *Store) Close() error {
	_, err := s.storage.Shutdown(false)
	return errors.Join(err, s.run.close())
}

// UseLock is the file that has a lock (flock(2)) as long as somebody uses what the store of that
// name holds: who has none may find it removed.
func UseLock(name string) (string, error) {
	dir, err := Directory(name)
	return filepath.Join(dir, useLock), err
}

const useLock = "use.lock"

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// Sources is the directory of downloaded content.
func (s *Store) Sources() string { return filepath.Join(s.dir, "sources") }

// Memory makes a new directory for this run, if possible in memory; Close
// removes it.
func (s *Store) Memory(pattern string) (dir string, err error) {
	dir, err = os.MkdirTemp(s.run.memory, pattern)
	if err != nil {
		return "", fmt.Errorf("make scratch directory: %w", err)
	}
	return dir, nil
}

// Scratch makes a new directory for this run on the store's filesystem, removed
// at the latest by Close. Mounts in it are taken away, not emptied.
func (s *Store) Scratch(pattern string) (dir string, remove func() error, err error) {
	dir, err = os.MkdirTemp(s.run.dir, pattern)
	if err != nil {
		return "", nil, fmt.Errorf("make scratch directory: %w", err)
	}
	return dir, func() error { return overlay.RemoveAll(dir) }, nil
}

// Outputs is the directory of what assemblers of format 1 have made, by id.
func (s *Store) Outputs() string { return filepath.Join(s.dir, "refs") }

// Layer is a checkpoint, or a tree on its way to become one.
type Layer struct {
	// ID is the id of the containers/storage layer.
	ID string
	// Made is when Create made it, by the clock of file times.
	Made time.Time
	key  string
	// parent is the layer it is based on, "" for none; only Layer sets it.
	parent string
	// record is the side record, encoded, once it was read or set; recorded says
	// that the store has one.
	record   []byte
	recorded bool
	// dirs finds its directories once.
	dirs func() (layerDirs, error)
}

func (s *Store) layer(id, key string) *Layer {
	return &Layer{ID: id, key: key, dirs: sync.OnceValues(func() (layerDirs, error) { return s.findDirs(id) })}
}

// Find is Lookup for a checkpoint that is used then.
func (s *Store) Find(id, key string) (*Layer, error) {
	l, err := s.Lookup(id, key)
	if l != nil {
		s.MarkUsed(l)
	}
	return l, err
}

// Lookup returns the checkpoint named id if its key is equal, else nil.
func (s *Store) Lookup(id, key string) (*Layer, error) {
	layer, err := s.storage.Layer(id)
	if errors.Is(err, storage.ErrLayerUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up checkpoint %s: %w", id, err)
	}
	if got, _ := layer.Flags[flagKey].(string); got != key {
		return nil, nil
	}
	l := s.layer(layer.ID, key)
	l.recorded = slices.Contains(layer.BigDataNames, recordKey)
	return l, nil
}

// Named returns the checkpoint of that name, whatever its key, nil if there is none.
func (s *Store) Named(name string) (*Layer, error) {
	layer, err := s.storage.Layer(name)
	if errors.Is(err, storage.ErrLayerUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up checkpoint %s: %w", name, err)
	}
	return s.Layer(layer.ID)
}

// Checkpoint returns the checkpoint whose name begins so; it is an error if there
// is none, or several.
func (s *Store) Checkpoint(prefix string) (*Layer, error) {
	layers, err := s.storage.Layers()
	if err != nil {
		return nil, fmt.Errorf("look up checkpoint %s: %w", prefix, err)
	}
	var found []*Layer
	for _, layer := range layers {
		if _, ours := layer.Flags[flagRun]; !ours {
			continue
		}
		if slices.ContainsFunc(layer.Names, func(name string) bool { return strings.HasPrefix(name, prefix) }) {
			l, err := s.Layer(layer.ID)
			if err != nil {
				return nil, err
			}
			found = append(found, l)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("store %s has no checkpoint %s: stage ids are in the output of a build, and in that of --inspect", s.dir, prefix)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d checkpoints of store %s begin with %s: give more of the id", len(found), s.dir, prefix)
}

// Layer returns a layer by the id that containers/storage has given it.
func (s *Store) Layer(id string) (*Layer, error) {
	layer, err := s.storage.Layer(id)
	if err != nil {
		return nil, fmt.Errorf("look up layer %s: %w", id, err)
	}
	key, _ := layer.Flags[flagKey].(string)
	l := s.layer(layer.ID, key)
	l.parent = layer.Parent
	l.recorded = slices.Contains(layer.BigDataNames, recordKey)
	return l, nil
}

// Chain returns the layers of which the layer's tree is made: the first one, on nothing,
// at the beginning, the layer itself at the end.
func (s *Store) Chain(l *Layer) ([]*Layer, error) {
	var chain []*Layer
	for id := l.ID; id != ""; {
		layer, err := s.Layer(id)
		if err != nil {
			return nil, err
		}
		chain = append(chain, layer)
		id = layer.parent
	}
	slices.Reverse(chain)
	return chain, nil
}

// Create makes an empty layer on base (nil: on nothing). It is garbage until
// Name names it.
func (s *Store) Create(base *Layer, key string, origin Origin) (*Layer, error) {
	// The clock of file times lags behind by some milliseconds.
	made := time.Now().Add(-time.Second)
	parent := ""
	if base != nil {
		parent = base.ID
	}
	layer, err := s.storage.CreateLayer("", parent, nil, "", true, &storage.LayerOptions{
		Flags: map[string]any{
			flagRun: s.run.id, flagKey: key, flagOrigin: origin.flag(),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("create layer: %w", err)
	}
	l := s.layer(layer.ID, key)
	l.Made = made
	upper, err := s.Upper(l)
	if err == nil && base == nil {
		// The driver makes roots 0555, osbuild's trees are 0755.
		err = os.Chmod(upper, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("create layer: %w", errors.Join(err, s.Delete(l)))
	}
	return l, nil
}

// Inherit makes the root directory of a new layer like that of the sealed one it
// is based on. Create cannot: the base may still be in the making then.
func (s *Store) Inherit(l, base *Layer) error {
	below, err := base.dirs()
	if err != nil {
		return err
	}
	dirs, err := l.dirs()
	if err != nil {
		return err
	}
	if err := overlay.InheritRoot(below.upper, dirs.upper); err != nil {
		return fmt.Errorf("prepare layer: %w", err)
	}
	return nil
}

// Commit seals the layer and names it. Times since it was made become epoch.
func (s *Store) Commit(l *Layer, name string, epoch *int64, metadata json.RawMessage) error {
	if err := s.Seal(l, epoch, l.Made); err != nil {
		return err
	}
	return s.Name(l, name, metadata)
}

// Seal brings the layer's content, which nobody changes any more, to disk. If epoch,
// in seconds, is not nil, file times from since on become it.
func (s *Store) Seal(l *Layer, epoch *int64, since time.Time) error {
	stack, err := s.Writable(l)
	if err != nil {
		return err
	}
	return stack.Finish(epoch, since, filepath.Join(s.run.memory, "seal-"+l.ID))
}

// Name makes a sealed layer the checkpoint of that name. It is atomic: the
// checkpoint exists with its whole content or not at all. metadata may be nil.
// What it holds is summed up, so that Check finds out if it changes.
func (s *Store) Name(l *Layer, name string, metadata json.RawMessage) error {
	data := map[string][]byte{}
	for key, value := range map[string][]byte{metaKey: metadata, recordKey: l.record} {
		if len(value) == 0 {
			continue
		}
		data[key] = value
		if err := s.storage.SetLayerBigData(l.ID, key, bytes.NewReader(value)); err != nil {
			return fmt.Errorf("store %s of %s: %w", key, name, err)
		}
	}
	if err := s.writeSums(l, name, data); err != nil {
		return fmt.Errorf("name checkpoint %s: %w", name, err)
	}
	if err := s.settle(l.ID); err != nil {
		return fmt.Errorf("name checkpoint %s: %w", name, err)
	}
	if err := s.storage.SetNames(l.ID, []string{name}); err != nil {
		return fmt.Errorf("name checkpoint %s: %w", name, err)
	}
	return nil
}

// Metadata returns what Name was given for the layer, or nil.
func (s *Store) Metadata(l *Layer) (json.RawMessage, error) {
	layer, err := s.storage.Layer(l.ID)
	if err != nil {
		return nil, fmt.Errorf("read metadata of layer %s: %w", l.ID, err)
	}
	for _, name := range layer.BigDataNames {
		if name != metaKey {
			continue
		}
		r, err := s.storage.LayerBigData(l.ID, metaKey)
		if err != nil {
			return nil, fmt.Errorf("read metadata of layer %s: %w", l.ID, err)
		}
		defer r.Close()
		var data json.RawMessage
		if err := json.NewDecoder(r).Decode(&data); err != nil {
			return nil, fmt.Errorf("read metadata of layer %s: %w", l.ID, err)
		}
		return data, nil
	}
	return nil, nil
}

// SetRecord gives the layer an encoded side record (package record), which Name
// stores. A new layer has none, whatever it is based on.
func (l *Layer) SetRecord(data []byte) { l.record = data }

// Record returns the encoded side record of the layer's tree, nil if it has none.
func (s *Store) Record(l *Layer) ([]byte, error) {
	if len(l.record) > 0 {
		return l.record, nil
	}
	if !l.recorded {
		return nil, nil
	}
	r, err := s.storage.LayerBigData(l.ID, recordKey)
	if err != nil {
		return nil, fmt.Errorf("read side record of layer %s: %w", l.ID, err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read side record of layer %s: %w", l.ID, err)
	}
	return data, nil
}

// KeepFailed keeps the layer of a failed stage until the pipeline's next one,
// so that people can look into it. If the filesystem is full it is deleted: it
// may be what fills it.
func (s *Store) KeepFailed(l *Layer, pipeline string) error {
	if err := s.ForgetFailed(pipeline); err != nil {
		return err
	}
	if s.full() {
		return s.deleteFull(l)
	}
	if err := s.storage.SetNames(l.ID, []string{failedPrefix + pipeline}); err != nil {
		return fmt.Errorf("keep failed layer: %w", err)
	}
	return nil
}

// full says whether less than a fiftieth of the store's filesystem is free.
func (s *Store) full() bool {
	var st unix.Statfs_t
	return unix.Statfs(s.dir, &st) == nil && st.Bavail < st.Blocks/50
}

// deleteFull deletes a layer on a full filesystem, where there is no room for
// the record of the deletion before the content is gone.
func (s *Store) deleteFull(l *Layer) error {
	upper, err := s.Upper(l)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(upper)
	if err != nil {
		return fmt.Errorf("delete layer: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(upper, e.Name())); err != nil {
			return fmt.Errorf("delete layer: %w", err)
		}
	}
	return s.Delete(l)
}

// ForgetFailed lets go of the layer that KeepFailed kept for the pipeline.
func (s *Store) ForgetFailed(pipeline string) error {
	layer, err := s.storage.Layer(failedPrefix + pipeline)
	if errors.Is(err, storage.ErrLayerUnknown) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up failed layer: %w", err)
	}
	if _, ours := layer.Flags[flagRun]; !ours {
		return nil
	}
	err = s.Delete(s.layer(layer.ID, ""))
	if errors.Is(err, storage.ErrLayerHasChildren) {
		// A shell is on it: without a name it goes when that has ended.
		if err = s.storage.SetNames(layer.ID, nil); err != nil {
			err = fmt.Errorf("forget failed layer: %w", err)
		}
	}
	return err
}

// Delete removes a layer that nothing is based on.
func (s *Store) Delete(l *Layer) error {
	if err := s.unpin(l.ID); err != nil {
		return err
	}
	if err := s.storage.DeleteLayer(l.ID); err != nil && !errors.Is(err, storage.ErrLayerUnknown) {
		return fmt.Errorf("delete layer: %w", err)
	}
	for _, path := range []string{s.usage(l.ID), s.usage(l.ID) + usesSuffix} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete layer: %w", err)
		}
	}
	return nil
}

type layerDirs struct {
	upper, work string
	lower       []string
}

func (s *Store) findDirs(id string) (layerDirs, error) {
	driver, err := s.storage.GraphDriver()
	if err != nil {
		return layerDirs{}, fmt.Errorf("open storage driver: %w", err)
	}
	meta, err := driver.Metadata(id)
	if err != nil {
		return layerDirs{}, fmt.Errorf("find layer %s: %w", id, err)
	}
	d := layerDirs{upper: meta["UpperDir"], work: meta["WorkDir"]}
	if lower := meta["LowerDir"]; lower != "" {
		d.lower = strings.Split(lower, ":")
	}
	return d, nil
}

// Writable returns the stack with which the layer's tree is changed. An fsync
// in it does nothing: Commit syncs.
func (s *Store) Writable(l *Layer) (*overlay.Stack, error) {
	d, err := l.dirs()
	if err != nil {
		return nil, err
	}
	lower := d.lower
	if len(lower) == 0 {
		// Overlay wants something below; a first layer has nothing.
		empty := filepath.Join(s.overlayDir(), l.ID, "empty")
		if err := os.MkdirAll(empty, 0o755); err != nil {
			return nil, fmt.Errorf("prepare layer %s: %w", l.ID, err)
		}
		lower = []string{empty}
	}
	return &overlay.Stack{Lower: lower, Upper: d.upper, Work: d.work, Volatile: true}, nil
}

// ReadOnly returns the stack with which the layer's tree is read.
func (s *Store) ReadOnly(l *Layer) (*overlay.Stack, error) {
	d, err := l.dirs()
	if err != nil {
		return nil, err
	}
	return &overlay.Stack{Lower: append([]string{d.upper}, d.lower...)}, nil
}

// Upper returns the directory with what the layer itself changed.
func (s *Store) Upper(l *Layer) (string, error) {
	d, err := l.dirs()
	return d.upper, err
}
