package sources

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// scratch is a directory for unverified content that is of no use to anybody
// else. It is locked as long as its process lives.
type scratch struct {
	dir  string
	lock *os.File
}

const scratchPrefix = "scratch-"

// newScratch makes a scratch directory in tmp; the caller removes it.
func newScratch(tmp string) (*scratch, error) {
	dir, err := os.MkdirTemp(tmp, scratchPrefix)
	if err != nil {
		return nil, fmt.Errorf("make scratch directory: %w", err)
	}
	lock, err := os.Open(dir)
	if err == nil {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			lock.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, errors.Join(err, os.RemoveAll(dir)))
	}
	return &scratch{dir: dir, lock: lock}, nil
}

// remove takes the directory away.
func (s *scratch) remove() error {
	return errors.Join(os.RemoveAll(s.dir), s.lock.Close())
}

// sweepScratch removes scratch directories of processes that were killed. Young
// ones are left, as somebody may be about to lock them.
func sweepScratch(tmp string) error {
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), scratchPrefix) {
			continue
		}
		dir := filepath.Join(tmp, e.Name())
		lock, err := os.Open(dir)
		if err != nil {
			continue // removed meanwhile
		}
		st, err := lock.Stat()
		if err == nil && time.Since(st.ModTime()) > time.Minute && unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(dir) // what cannot be removed is left for the next time
		}
		lock.Close()
	}
	return nil
}
