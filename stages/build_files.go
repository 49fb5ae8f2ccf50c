package stages

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// copyBuildFile copies a file of the build root to a path of the tree with its
// mode, times and extended attributes, as Python's shutil.copy2 does. A file
// that is there keeps its owner; its directory must be there.
func copyBuildFile(args *module.Args, source, path string) error {
	target, err := treeTarget(args, path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	if err := os.WriteFile(target, data, 0o644); err != nil {
		return err
	}
	return copyStat(source, target)
}

// copyBuildTree copies a directory of the build root to a path of the tree that
// must not be there, with what its symbolic links lead to in their place.
func copyBuildTree(args *module.Args, source, path string) error {
	entries, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	if err := makeNewDir(args, path); err != nil {
		return err
	}
	for _, entry := range entries {
		from, to := filepath.Join(source, entry.Name()), filepath.Join(path, entry.Name())
		info, err := os.Stat(from)
		switch {
		case err != nil:
		case info.IsDir():
			err = copyBuildTree(args, from, to)
		case info.Mode().IsRegular():
			err = copyBuildFile(args, from, to)
		default:
			err = fmt.Errorf("%s is neither a file nor a directory", from)
		}
		if err != nil {
			return err
		}
	}
	target, err := treeTarget(args, path)
	if err != nil {
		return err
	}
	return copyStat(source, target)
}

// makeNewDir makes a directory of the tree that must not be there, and those
// that lead to it (0755), as Python's os.makedirs(path) does.
func makeNewDir(args *module.Args, path string) error {
	if err := makeDirs(args, filepath.Dir(path)); err != nil {
		return err
	}
	entry, err := treeEntry(args, path)
	if err != nil {
		return err
	}
	return os.Mkdir(entry, 0o755)
}

// copyStat gives target the times, extended attributes and mode of source.
func copyStat(source, target string) error {
	var stat unix.Stat_t
	if err := unix.Stat(source, &stat); err != nil {
		return &os.PathError{Op: "stat", Path: source, Err: err}
	}
	times := []unix.Timespec{stat.Atim, stat.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, target, times, 0); err != nil {
		return &os.PathError{Op: "set times of", Path: target, Err: err}
	}
	if err := copyXattrs(source, target); err != nil {
		return err
	}
	// unix.Chmod, because os.Chmod has other bits for set-id and sticky.
	if err := unix.Chmod(target, stat.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: target, Err: err}
	}
	return nil
}

// copyXattrs copies the extended attributes that target may have.
func copyXattrs(source, target string) error {
	names := make([]byte, 64<<10) // what Linux gives at most
	n, err := unix.Listxattr(source, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "list extended attributes of", Path: source, Err: err}
	}
	value := make([]byte, 64<<10)
	for _, name := range strings.FieldsFunc(string(names[:n]), func(c rune) bool { return c == 0 }) {
		size, err := unix.Getxattr(source, name, value)
		if err == nil {
			err = unix.Setxattr(target, name, value[:size], 0)
		}
		refused := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EINVAL)
		if err != nil && !refused {
			return &os.PathError{Op: "copy extended attribute " + name + " to", Path: target, Err: err}
		}
	}
	return nil
}
