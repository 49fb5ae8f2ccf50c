package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// fewFiles is the number of changed paths up to which each is synced by itself.
// Beyond it one syncfs is cheaper, although it waits for everybody's data.
const fewFiles = 64

// Finish brings the upper directory of an unmounted stack into the form in which it
// is committed: names that are one file are so again, times from since on are epoch
// (seconds since 1970; nil leaves times alone), and everything is on disk. Older
// times are those of archives and other trees, which keep them, as osbuild's
// clamp_mtime does. dir is where Finish may make a directory for a while.
func (s *Stack) Finish(epoch *int64, since time.Time, dir string) error {
	if err := s.joinLinks(dir); err != nil {
		return fmt.Errorf("finish layer: %w", err)
	}
	var changed []string
	many, links := false, false
	err := filepath.WalkDir(s.Upper, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		links = links || d.Type().IsRegular() && st.Nlink > 1
		if epoch != nil {
			if err := clamp(path, &st, *epoch, since); err != nil {
				return err
			}
		}
		if len(changed) >= fewFiles {
			many = true
		} else if d.IsDir() || d.Type().IsRegular() {
			changed = append(changed, path)
		}
		return nil
	})
	if err == nil && links {
		err = s.markLinks()
	}
	if err != nil {
		return fmt.Errorf("finish layer: %w", err)
	}
	if len(changed) <= 1 {
		return nil // nothing but the root directory
	}
	if many {
		return SyncFilesystem(s.Upper)
	}
	for _, path := range changed {
		if err := syncPath(path); err != nil {
			return err
		}
	}
	return nil
}

func clamp(path string, st *unix.Stat_t, epoch int64, since time.Time) error {
	if time.Unix(st.Mtim.Unix()).Before(since) {
		return nil
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: epoch}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// SyncFilesystem brings the filesystem that path is on to the disk.
func SyncFilesystem(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync filesystem of %s: %w", path, err)
	}
	return nil
}
