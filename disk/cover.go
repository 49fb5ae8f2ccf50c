package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// withCovered runs run while the directories covered (relative to source) look
// empty to the programs that run starts: mke2fs cannot leave directories out.
// They keep their mode, owner, times and extended attributes. Nobody else sees
// it, because it happens in a mount namespace of one thread. scratch is a
// directory for the empty ones; its owner removes it.
func withCovered(source string, covered []string, scratch string, run func() error) error {
	if len(covered) == 0 {
		return run()
	}
	done := make(chan error)
	go func() {
		// The thread is never unlocked, so it ends with this goroutine
		// and its namespace ends with it.
		runtime.LockOSThread()
		err := cover(source, covered, scratch)
		if err != nil {
			err = fmt.Errorf("hide the mount points below %s from mkfs: %w", source, err)
		} else {
			err = run()
		}
		done <- err
	}()
	return <-done
}

func cover(source string, covered []string, scratch string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace (CAP_SYS_ADMIN is needed): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for i, rel := range covered {
		dir := filepath.Join(source, rel)
		empty := filepath.Join(scratch, fmt.Sprintf("empty-%d", i))
		if err := emptyTwin(dir, empty); err != nil {
			return err
		}
		if err := unix.Mount(empty, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind an empty directory to %s: %w", dir, err)
		}
	}
	return nil
}

// emptyTwin makes an empty directory with the metadata of dir.
func emptyTwin(dir, twin string) error {
	var stat unix.Stat_t
	if err := unix.Lstat(dir, &stat); err != nil {
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := os.Mkdir(twin, 0o700); err != nil {
		return err
	}
	if err := os.Lchown(twin, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(dir, twin); err != nil {
		return err
	}
	// After the attributes, which may hold an ACL that is tied to the mode.
	if err := unix.Chmod(twin, stat.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: twin, Err: err}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, twin, []unix.Timespec{stat.Mtim, stat.Mtim}, 0); err != nil {
		return &os.PathError{Op: "utimensat", Path: twin, Err: err}
	}
	return nil
}

func copyXattrs(from, to string) error {
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX and XATTR_SIZE_MAX
	n, err := unix.Llistxattr(from, buf)
	if err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "listxattr", Path: from, Err: err}
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	for _, name := range names {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(from, name, buf)
		if err != nil {
			return &os.PathError{Op: "getxattr " + name, Path: from, Err: err}
		}
		if err := unix.Lsetxattr(to, name, buf[:n], 0); err != nil {
			return &os.PathError{Op: "setxattr " + name, Path: to, Err: err}
		}
	}
	return nil
}
