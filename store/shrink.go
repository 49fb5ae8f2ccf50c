package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// ErrBusy says that another engine has the store open.
var ErrBusy = errors.New("another ossify uses the store")

// Prune says what goes. Checkpoints that something is based on go only with that.
type Prune struct {
	// Max is how many bytes the store may hold, negative for any number: what was not used
	// for longest goes first.
	Max int64
	// Before is when something has to have been used to stay, zero for any time.
	Before time.Time
	// Last, if not negative, is how many trees stay, of those that nothing is based on: the
	// ones that were used last, with all that they are based on. Downloads and prepared build
	// roots do not count.
	Last int
}

// Shrunk is what Shrink did.
type Shrunk struct {
	// Busy says that another engine has the store open, so that nothing was
	// removed.
	Busy bool
	// Removed counts checkpoints, downloads and outputs; Freed is their size
	// in bytes.
	Removed int
	Freed   int64
}

// item is something that Shrink can remove.
type item struct {
	used time.Time
	// layer is its id, "" for what is none; top says that it is a stage's and nothing is
	// based on it, prepared that it is no stage's.
	layer         string
	top, prepared bool
	// depth counts the layers below a layer: those on top go first.
	depth  int
	size   int64
	remove func() error
}

// Shrink removes what was not used for longest until what the store holds,
// checkpoints, downloads, outputs and copies of native modules, is at most max
// bytes. Nothing may use layers of this store any more but to close it. What
// other programs have based on a checkpoint keeps it.
func (s *Store) Shrink(max int64) (*Shrunk, error) {
	done, err := s.Prune(Prune{Max: max, Last: -1})
	if errors.Is(err, ErrBusy) {
		return &Shrunk{Busy: true}, nil
	}
	return done, err
}

// alone makes this engine the only one that has the store open, or returns ErrBusy.
func (s *Store) alone() error {
	lock := s.run.inUse
	err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	}
	if err != nil {
		return &fs.PathError{Op: "lock", Path: lock.Name(), Err: err}
	}
	return nil
}

// Prune removes what is to go, as Shrink does. It fails with ErrBusy if another engine has
// the store open.
func (s *Store) Prune(p Prune) (*Shrunk, error) {
	if err := s.alone(); err != nil {
		return nil, err
	}
	items, err := s.layerItems()
	if err != nil {
		return nil, err
	}
	for _, kind := range contents {
		more, err := pathItems(filepath.Join(s.dir, kind.pattern))
		if err != nil {
			return nil, err
		}
		items = append(items, more...)
	}
	var total int64
	for _, it := range items {
		total += it.size
	}
	slices.SortStableFunc(items, func(a, b item) int {
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(b.depth, a.depth))
	})
	stays := func(it item) bool {
		return (p.Max < 0 || total <= p.Max) && !it.used.Before(p.Before)
	}
	if p.Last >= 0 {
		last, err := s.lastTrees(items, p.Last)
		if err != nil {
			return nil, err
		}
		within := stays
		stays = func(it item) bool { return within(it) && (it.layer == "" || it.prepared || last[it.layer]) }
	}
	done := &Shrunk{}
	for _, it := range items {
		if it.remove == nil || stays(it) {
			continue
		}
		if err := it.remove(); err != nil {
			return done, err
		}
		total -= it.size
		done.Removed++
		done.Freed += it.size
	}
	return done, errors.Join(s.forgetUses(), s.removeRemains())
}

// removeRemains removes what killed engines have left of files that were to be renamed, of
// the trial mounts that containers/storage makes when it is opened, and of its short names for
// layers. What is new may be of a podman that is at work.
func (s *Store) removeRemains() error {
	for _, kind := range []struct {
		pattern string
		dead    func(path string) bool
	}{
		{"storage/overlay/compat*", always}, {"storage/overlay/*-check*", always}, {"storage/overlay-*/.tmp-*", always},
		{"digests/.tmp-*", always}, {"storage/overlay/l/*", dangling},
	} {
		paths, err := filepath.Glob(filepath.Join(s.dir, kind.pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			st, err := os.Lstat(path)
			if err != nil || time.Since(st.ModTime()) < remainsAge || !kind.dead(path) {
				continue
			}
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("clean up what killed engines have left: %w", err)
			}
		}
	}
	return nil
}

// remainsAge is how old something has to be for nobody to be at it.
const remainsAge = 10 * time.Minute

func always(string) bool { return true }

// dangling says whether a link leads to nothing.
func dangling(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// forgetUses removes the notes about layers that other programs have removed.
func (s *Store) forgetUses() error {
	notes, err := os.ReadDir(filepath.Join(s.dir, "used"))
	if err != nil {
		return fmt.Errorf("clean up notes about checkpoints: %w", err)
	}
	for _, note := range notes {
		if id := strings.TrimSuffix(note.Name(), usesSuffix); !s.storage.Exists(id) {
			if err := os.Remove(filepath.Join(s.dir, "used", note.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("clean up notes about checkpoints: %w", err)
			}
		}
	}
	return nil
}

// lastTrees are the layers of the n trees that were used last.
func (s *Store) lastTrees(items []item, n int) (map[string]bool, error) {
	layers, err := s.storage.Layers()
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	parent, last := map[string]string{}, map[string]bool{}
	for _, l := range layers {
		parent[l.ID] = l.Parent
	}
	for _, it := range slices.Backward(items) { // by their use
		if it.top && n > 0 {
			n--
			for id := it.layer; id != ""; id = parent[id] {
				last[id] = true
			}
		}
	}
	return last, nil
}

// layerItems are the layers of Ossify. One that others need is used whenever
// they are.
func (s *Store) layerItems() ([]item, error) {
	layers, err := s.storage.Layers()
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	images, err := s.storage.Images()
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	byID := map[string]*storage.Layer{}
	for i := range layers {
		byID[layers[i].ID] = &layers[i]
	}
	used := map[string]time.Time{}
	kept, based := map[string]bool{}, map[string]bool{}
	for i := range layers {
		l := &layers[i]
		if isPin(l) {
			continue
		}
		based[l.Parent] = true
		_, ours := l.Flags[flagRun]
		t := s.lastUsed(l)
		for ; l != nil; l = byID[l.Parent] {
			if used[l.ID].Before(t) {
				used[l.ID] = t
			}
			kept[l.ID] = kept[l.ID] || !ours
		}
	}
	for _, image := range images {
		for l := byID[image.TopLayer]; l != nil; l = byID[l.Parent] {
			kept[l.ID] = true
		}
	}
	var items []item
	for i := range layers {
		l := &layers[i]
		if _, ours := l.Flags[flagRun]; !ours || isPin(l) {
			continue
		}
		it := item{used: used[l.ID], layer: l.ID, top: !based[l.ID] && isStage(l), prepared: !isStage(l)}
		if it.size, err = s.layerSize(l.ID); err != nil {
			return nil, err
		}
		for p := byID[l.Parent]; p != nil; p = byID[p.Parent] {
			it.depth++
		}
		if !kept[l.ID] {
			it.remove = func() error { return s.Delete(s.layer(l.ID, "")) }
		}
		items = append(items, it)
	}
	return items, nil
}

// usage is the file whose time says when a layer was last used; it holds the
// size of the layer once somebody asked for it.
func (s *Store) usage(id string) string { return filepath.Join(s.dir, "used", id) }

// MarkUsed notes that a layer is used. Without the note its age counts.
func (s *Store) MarkUsed(l *Layer) {
	id := l.ID
	f, err := os.OpenFile(s.usage(id), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return
	}
	f.Close()
	now := time.Now()
	_ = os.Chtimes(s.usage(id), now, now)
	if f, err := os.OpenFile(s.usage(id)+usesSuffix, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644); err == nil {
		_, _ = f.Write([]byte{'.'}) // without it the use is not counted
		f.Close()
	}
}

func (s *Store) lastUsed(l *storage.Layer) time.Time {
	if st, err := os.Stat(s.usage(l.ID)); err == nil {
		return st.ModTime()
	}
	return l.Created
}

// layerSize is what a layer holds itself, in bytes on disk.
func (s *Store) layerSize(id string) (int64, error) {
	path := s.usage(id)
	data, err := os.ReadFile(path)
	if err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil {
			return n, nil
		}
	}
	upper, err := s.Upper(s.layer(id, ""))
	if err != nil {
		return 0, err
	}
	n, err := diskUsage(upper)
	if err != nil {
		return 0, err
	}
	used := time.Now()
	if st, err := os.Stat(path); err == nil {
		used = st.ModTime()
	} else if l, err := s.storage.Layer(id); err == nil {
		used = l.Created
	}
	// Without the note the size is computed again next time.
	if os.WriteFile(path, fmt.Appendln(nil, n), 0o644) == nil {
		_ = os.Chtimes(path, used, used)
	}
	return n, nil
}

// pathItems are the files and directories that match the pattern.
func pathItems(pattern string) ([]item, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	var items []item
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		size, err := diskUsage(path)
		if err != nil {
			return nil, err
		}
		items = append(items, item{
			used: time.Unix(st.Atim.Unix()), size: size,
			remove: func() error { return os.RemoveAll(path) },
		})
	}
	return items, nil
}

// MarkSourceUsed notes that a download is used.
func (s *Store) MarkSourceUsed(checksum string) {
	kinds, err := os.ReadDir(s.Sources())
	if err != nil {
		return // there is none
	}
	for _, kind := range kinds {
		markPathUsed(filepath.Join(s.Sources(), kind.Name(), checksum))
	}
}

// markPathUsed notes that a file or directory is used. Its time of change stays,
// as stages may copy it.
func markPathUsed(path string) {
	now, err := unix.TimeToTimespec(time.Now())
	if err == nil {
		// Without the note the file's age counts.
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{now, {Nsec: unix.UTIME_OMIT}}, unix.AT_SYMLINK_NOFOLLOW)
	}
}

// diskUsage adds up what a file or directory takes on disk, in bytes.
func diskUsage(path string) (int64, error) {
	var total int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		if !seen[st.Ino] {
			seen[st.Ino] = true
			total += st.Blocks * 512
		}
		return nil
	})
	return total, err
}
