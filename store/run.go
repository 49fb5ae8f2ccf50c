package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/overlay"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// run is one engine's folder below STORE/run. Its lock is held for as long as
// the engine lives; a folder whose lock is free belongs to nobody.
type run struct {
	id   string
	dir  string
	lock *os.File
	// inUse is held shared: Shrink holds it alone.
	inUse *os.File
	// memory is a folder, if possible a tmpfs, below dir or in the place
	// that the user chose, to which a link below dir then leads.
	memory  string
	mounted bool
}

const runPrefix = "engine-"

// memoryName is the name of a run's memory folder, or of the link to it.
const memoryName = "memory"

func newRun(parent, rundir string) (*run, error) {
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
		r := &run{id: filepath.Base(dir), dir: dir, lock: lock, memory: filepath.Join(dir, memoryName)}
		if rundir != "" {
			err = r.moveMemory(rundir)
		}
		if err == nil {
			err = r.mountMemory()
		}
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		return r, nil
	}
}

// moveMemory puts the memory folder into rundir.
func (r *run) moveMemory(rundir string) error {
	rundir, err := filepath.Abs(rundir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(rundir, 0o755); err != nil {
		return err
	}
	link := r.memory
	r.memory = filepath.Join(rundir, "ossify-"+r.id)
	return os.Symlink(r.memory, link)
}

// removeRun removes a run's folder and what is left of its memory.
func removeRun(dir string) error {
	if memory, err := os.Readlink(filepath.Join(dir, memoryName)); err == nil {
		if err := overlay.RemoveAll(memory); err != nil {
			return err
		}
	}
	return overlay.RemoveAll(dir)
}

// mountMemory mounts a tmpfs in this engine's own namespace for small files of a
// short life, for which ext4 takes long to find inodes. A kernel before 6.6,
// whose tmpfs cannot hold the marks of a rootless overlay, leaves them on disk.
func (r *run) mountMemory() error {
	if err := os.Mkdir(r.memory, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", r.memory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: r.memory, Err: err}
	}
	r.mounted = true
	if err := unix.Setxattr(r.memory, "user.overlay.ossify", []byte("y"), 0); err != nil {
		return r.unmountMemory()
	}
	return nil
}

func (r *run) unmountMemory() error {
	if !r.mounted {
		return nil
	}
	r.mounted = false
	if err := unix.Unmount(r.memory, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return &os.PathError{Op: "unmount", Path: r.memory, Err: err}
	}
	return nil
}

// close removes the folder. A service may have left mounts in it.
func (r *run) close() error {
	err := errors.Join(r.unmountMemory(), removeRun(r.dir), r.lock.Close())
	if r.inUse != nil {
		err = errors.Join(err, r.inUse.Close())
	}
	return err
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
// may be nil, is called once if another engine is at it; the end of ctx ends the
// wait. The returned function unlocks; so does the end of the process.
func (s *Store) LockStage(ctx context.Context, id string, waiting func()) (unlock func(), err error) {
	path := filepath.Join(s.dir, "stages.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock stage: %w", err)
	}
	// Each stage is a byte of one file, far beyond its end. The lock belongs
	// to the open file (F_OFD_SETLK(2const)).
	sum := sha256.Sum256([]byte(id))
	lock := unix.Flock_t{
		Type:   unix.F_WRLCK,
		Whence: io.SeekStart,
		Start:  int64(binary.BigEndian.Uint64(sum[:]) >> 2),
		Len:    1,
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		if waiting != nil {
			waiting()
		}
		got := make(chan error, 1)
		go func() {
			for {
				if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &lock); err != unix.EINTR {
					got <- err
					return
				}
			}
		}()
		select {
		case err = <-got:
		case <-ctx.Done():
			go func() { <-got; f.Close() }()
			return nil, context.Cause(ctx)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock stage in %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// sweep removes the folders and the unnamed layers of engines that are gone.
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
		if err := removeRun(dir); err != nil {
			return err
		}
		if lock != nil {
			lock.Close()
		}
	}
	return s.sweepLayers(live)
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
			if err := s.Delete(s.layer(l.ID, "")); err != nil {
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
