package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// run is one engine's folder below STORE/run. Its lock is held for as long as
// the engine lives; a folder whose lock is free belongs to nobody.
type run struct {
	id   string
	dir  string
	lock *os.File
}

const runPrefix = "engine-"

func newRun(parent string) (*run, error) {
	for {
		dir, err := os.MkdirTemp(parent, runPrefix)
		if err != nil {
			return nil, err
		}
		lock, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			continue // swept between the two calls
		}
		if err != nil {
			return nil, err
		}
		// The sweeper of another engine may have taken it before us.
		if _, err := os.Stat(filepath.Join(dir, "lock")); err != nil {
			lock.Close()
			continue
		}
		return &run{id: filepath.Base(dir), dir: dir, lock: lock}, nil
	}
}

func (r *run) close() error {
	err := os.RemoveAll(r.dir)
	return errors.Join(err, r.lock.Close())
}

// lockFile opens path and locks it with flock(2); closing the file unlocks it.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return f, nil
}

// LockStage makes this engine the only one to build the stage. waiting, which
// may be nil, is called once if another engine is at it. The returned function
// unlocks.
func (s *Store) LockStage(id string, waiting func()) (unlock func(), err error) {
	path := filepath.Join(s.dir, "locks", id)
	for {
		f, err := lockFile(path, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			if waiting != nil {
				waiting()
				waiting = nil
			}
			f, err = lockFile(path, unix.LOCK_EX)
		}
		if err != nil {
			return nil, fmt.Errorf("lock stage: %w", err)
		}
		if isAt(f, path) {
			return func() {
				os.Remove(path)
				f.Close()
			}, nil
		}
		f.Close() // removed by the engine that had it
	}
}

// isAt says whether path still names the file, which another engine may have
// removed and made anew.
func isAt(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(mine, named)
}

// sweep removes the folders, locks and unnamed layers of engines that are gone.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "run"))
	if err != nil {
		return err
	}
	live := map[string]bool{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), runPrefix) {
			continue
		}
		dir := filepath.Join(s.dir, "run", e.Name())
		if e.Name() == s.run.id {
			live[e.Name()] = true
			continue
		}
		lock, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			live[e.Name()] = true
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if lock != nil {
			lock.Close()
		}
	}
	if err := s.sweepLocks(); err != nil {
		return err
	}
	return s.sweepLayers(live)
}

// sweepLocks removes the lock files that nobody holds.
func (s *Store) sweepLocks() error {
	dir := filepath.Join(s.dir, "locks")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && isAt(f, path) {
			err = os.Remove(path)
		}
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (s *Store) sweepLayers(live map[string]bool) error {
	layers, err := s.storage.Layers()
	if err != nil {
		return err
	}
	children := map[string]int{}
	byID := map[string]*storage.Layer{}
	for i := range layers {
		children[layers[i].Parent]++
		byID[layers[i].ID] = &layers[i]
	}
	for i := range layers {
		// Delete from the leaf down: a garbage layer may stand on another.
		for l := &layers[i]; l != nil && isGarbage(l, live) && children[l.ID] == 0; l = byID[l.Parent] {
			if byID[l.ID] == nil {
				break
			}
			if err := s.storage.DeleteLayer(l.ID); err != nil && !errors.Is(err, storage.ErrLayerUnknown) {
				return err
			}
			delete(byID, l.ID)
			children[l.Parent]--
		}
	}
	return nil
}

func isGarbage(l *storage.Layer, live map[string]bool) bool {
	run, ours := l.Flags[flagRun].(string)
	return ours && len(l.Names) == 0 && !live[run]
}
