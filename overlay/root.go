package overlay

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// InheritRoot gives the directory upper the owner, mode, extended attributes and
// times of below. A stack's root directory is that of its uppermost layer alone:
// what a layer does not copy of the one below is lost.
func InheritRoot(below, upper string) error {
	var st unix.Stat_t
	if err := unix.Lstat(below, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: below, Err: err}
	}
	if err := unix.Lchown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return &os.PathError{Op: "chown", Path: upper, Err: err}
	}
	if err := unix.Chmod(upper, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: upper, Err: err}
	}
	if err := copyAttributes(below, upper); err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, upper, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: upper, Err: err}
	}
	return nil
}

// copyAttributes copies extended attributes but for overlay's own.
func copyAttributes(from, to string) error {
	attrs, err := attributes(from)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	for name, value := range attrs {
		if strings.HasPrefix(name, "user.overlay.") || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		err := unix.Lsetxattr(to, name, []byte(value), 0)
		if strings.HasPrefix(name, "security.") && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP)) {
			continue // the kernel's own, such as the label of a new directory
		}
		if err != nil {
			return &os.PathError{Op: "setxattr " + name, Path: to, Err: err}
		}
	}
	return nil
}
