package dpkg

import (
	"errors"
	"fmt"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// tree is the system that is being installed, seen from outside: paths are
// resolved as the system itself would, with its root as "/", so that an
// absolute link in it never leads to a file of the build root.
type tree struct {
	fd   int
	dirs map[string]int
}

// maxDirs bounds the directories that are held open.
const maxDirs = 256

func openTree(root string) (*tree, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open tree %s: %w", root, err)
	}
	return &tree{fd: fd, dirs: map[string]int{}}, nil
}

func (t *tree) close() {
	t.forget()
	unix.Close(t.fd)
}

// forget closes the held directories; it is due whenever a link may have
// changed under them.
func (t *tree) forget() {
	for name, fd := range t.dirs {
		unix.Close(fd)
		delete(t.dirs, name)
	}
}

// dir returns a descriptor, owned by t, of a directory.
func (t *tree) dir(name string) (int, error) {
	if fd, ok := t.dirs[name]; ok {
		return fd, nil
	}
	fd, err := t.open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, fmt.Errorf("open directory %s: %w", name, err)
	}
	if len(t.dirs) >= maxDirs {
		t.forget()
	}
	t.dirs[name] = fd
	return fd, nil
}

// open opens a path in the tree; links are followed inside of it.
func (t *tree) open(name string, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(mode)
	}
	for {
		fd, err := unix.Openat2(t.fd, name, &how)
		// EAGAIN: a rename elsewhere raced with the walk.
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		return fd, err
	}
}

// at returns the directory of a path, links in it resolved, and its last part.
func (t *tree) at(name string) (int, string, error) {
	fd, err := t.dir(path.Dir(name))
	return fd, path.Base(name), err
}

// isDir says whether the path leads to a directory.
func (t *tree) isDir(name string) bool {
	fd, err := t.open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// lstat returns what is at the path itself; false if there is nothing.
func (t *tree) lstat(name string) (unix.Stat_t, bool, error) {
	var st unix.Stat_t
	dir, base, err := t.at(name)
	if errors.Is(err, unix.ENOENT) {
		return st, false, nil
	}
	if err != nil {
		return st, false, err
	}
	err = unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return st, false, nil
	}
	return st, err == nil, err
}

// mkdirs makes a directory and those above it, with mode 0755.
func (t *tree) mkdirs(name string) error {
	if t.isDir(name) {
		return nil
	}
	if err := t.mkdirs(path.Dir(name)); err != nil {
		return err
	}
	dir, base, err := t.at(name)
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(dir, base, 0o755); err != nil {
		return fmt.Errorf("make directory %s: %w", name, err)
	}
	return nil
}

// readFile returns a file's bytes; an absent file is empty.
func (t *tree) readFile(name string) ([]byte, error) {
	fd, err := t.open(name, unix.O_RDONLY, 0)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	var data []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if n == 0 {
			return data, nil
		}
		data = append(data, buf[:n]...)
	}
}

// writeFile writes a file, in place of one that may be there.
func (t *tree) writeFile(name string, data []byte, mode uint32, flags int) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	fd, err := t.open(name, unix.O_WRONLY|unix.O_CREAT|flags, mode)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := unix.Close(fd); err == nil {
			err = closeErr
		}
	}()
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return unix.Fchmod(fd, mode)
}

// setTime sets the times of what is at the path itself.
func (t *tree) setTime(name string, at time.Time) error {
	dir, base, err := t.at(name)
	if err != nil {
		return err
	}
	times := timespecs(at)
	if err := unix.UtimesNanoAt(dir, base, times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time of %s: %w", name, err)
	}
	return nil
}
