package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Stack is a stack of directories to be mounted as one tree.
type Stack struct {
	// Lower are the read-only directories, uppermost first.
	Lower []string
	// Upper takes the changes. Empty makes the tree read-only.
	Upper string
	// Work is an empty directory on Upper's filesystem. The kernel owns it
	// while the stack is mounted.
	Work string
	// Volatile makes fsync and syncfs on the tree free: the caller syncs
	// Upper itself before relying on it (kernel's overlayfs.rst).
	Volatile bool
	// Source is what lists of mounts call it, "" for nothing in particular.
	Source string
}

// Mount mounts the stack at target, an existing directory. The returned
// function unmounts it, at once or, if the tree is still busy, when its last
// user is gone, and removes what a volatile mount leaves in Work.
func (s *Stack) Mount(target string) (unmount func() error, err error) {
	dir, err := os.OpenFile(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	defer dir.Close()
	if err := s.MountAt(dir); err != nil {
		return nil, err
	}
	return func() error {
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
		if s.Volatile {
			return s.forgetVolatile()
		}
		return nil
	}, nil
}

// MountAt mounts the stack at an open directory, which is that of the mount also
// if something else gets its name meanwhile.
func (s *Stack) MountAt(target *os.File) error {
	if s.Upper == "" && len(s.Lower) == 1 {
		// Overlay wants two layers: the mount point, which is empty, is the other.
		// A bind mount would show overlay's own attributes.
		alone := *s
		alone.Lower = []string{s.Lower[0], pathOf(target)}
		s = &alone
	}
	if takesLowerSingly() {
		return s.mountNew(target)
	}
	return s.mountOld(target)
}

// pathOf leads to an open file whatever has its name.
func pathOf(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// forgetVolatile removes the mark with which the kernel refuses to mount an
// upper directory again that was volatile. The caller syncs before committing.
func (s *Stack) forgetVolatile() error {
	mark := filepath.Join(s.Work, "work", "incompat")
	if err := os.RemoveAll(mark); err != nil {
		return fmt.Errorf("clean up volatile overlay: %w", err)
	}
	return nil
}

// takesLowerSingly says whether the kernel takes lower directories one at a time (Linux 6.8); others write a
// line to their log when they are asked.
var takesLowerSingly = sync.OnceValue(func() bool {
	var name unix.Utsname
	var major, minor int
	if unix.Uname(&name) != nil {
		return false
	}
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return err == nil && (major > 6 || major == 6 && minor >= 8)
})

// mountNew uses the mount API of file descriptors, which has no limit on the
// length of options: 500 lower directories are possible (fsconfig(2)).
func (s *Stack) mountNew(target *os.File) error {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open overlay filesystem: %w", err)
	}
	defer unix.Close(fsfd)
	lower := s.Lower
	if len(lower) == 0 {
		return errors.New("internal error: overlay without a lower directory")
	}
	for _, dir := range lower {
		if err := unix.FsconfigSetString(fsfd, "lowerdir+", dir); err != nil {
			return fmt.Errorf("overlay: add %s: %w", dir, err)
		}
	}
	if s.Upper != "" {
		if err := unix.FsconfigSetString(fsfd, "upperdir", s.Upper); err != nil {
			return fmt.Errorf("overlay: upper directory %s: %w", s.Upper, err)
		}
		if err := unix.FsconfigSetString(fsfd, "workdir", s.Work); err != nil {
			return fmt.Errorf("overlay: work directory %s: %w", s.Work, err)
		}
	}
	if s.Source != "" {
		if err := unix.FsconfigSetString(fsfd, "source", s.Source); err != nil {
			return fmt.Errorf("overlay: source %s: %w", s.Source, err)
		}
	}
	for _, flag := range s.flags() {
		if err := unix.FsconfigSetFlag(fsfd, flag); err != nil {
			return fmt.Errorf("overlay: option %s: %w", flag, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return fmt.Errorf("mount overlay at %s: %w", target.Name(), err)
	}
	attr := 0
	if s.Upper == "" {
		attr = unix.MOUNT_ATTR_RDONLY
	}
	mfd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return fmt.Errorf("mount overlay at %s: %w", target.Name(), err)
	}
	defer unix.Close(mfd)
	if err := unix.MoveMount(mfd, "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach overlay at %s: %w", target.Name(), err)
	}
	return nil
}

// mountOld uses mount(2), whose options must fit into one page: directories are named by the numbers of
// their descriptors, which is short, and cannot have a colon or comma in it.
func (s *Stack) mountOld(target *os.File) error {
	var opened []int
	defer func() {
		for _, fd := range opened {
			unix.Close(fd)
		}
	}()
	number := func(dir string) (string, error) {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("overlay: open %s: %w", dir, err)
		}
		opened = append(opened, fd)
		return strconv.Itoa(fd), nil
	}
	lower := make([]string, len(s.Lower))
	for i, dir := range s.Lower {
		var err error
		if lower[i], err = number(dir); err != nil {
			return err
		}
	}
	opts := "lowerdir=" + strings.Join(lower, ":")
	if s.Upper != "" {
		upper, upperErr := number(s.Upper)
		work, err := number(s.Work)
		if err := cmp.Or(upperErr, err); err != nil {
			return err
		}
		opts += ",upperdir=" + upper + ",workdir=" + work
	}
	opts += "," + strings.Join(s.flags(), ",")
	if len(opts) >= os.Getpagesize() {
		return fmt.Errorf("mount overlay: %d layers are too many for this kernel", len(s.Lower))
	}
	flags := uintptr(0)
	if s.Upper == "" {
		flags = unix.MS_RDONLY
	}
	errc := make(chan error, 1)
	go func() {
		// The thread gets a working directory of its own and is thrown
		// away: it is never unlocked.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chdir("/proc/self/fd")
		}
		if err == nil {
			err = unix.Mount(cmp.Or(s.Source, "overlay"), pathOf(target), "overlay", flags, opts)
		}
		errc <- err
	}()
	if err := <-errc; err != nil {
		return fmt.Errorf("mount overlay at %s: %w", target.Name(), err)
	}
	return nil
}

func (s *Stack) flags() []string {
	// Overlay's marks are in user.overlay.*, which is all that a user
	// namespace may write.
	flags := []string{"userxattr"}
	if s.Volatile && s.Upper != "" {
		flags = append(flags, "volatile")
	}
	return flags
}
