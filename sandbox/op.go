package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/ossify/ossify/overlay"
	"golang.org/x/sys/unix"
)

// Op is one step in laying out a container's file tree. Targets are absolute
// paths inside the container; a symbolic link on the way is resolved inside.
type Op interface {
	// Describe says in one line what the step does.
	Describe() string
	// Apply does it below root.
	Apply(root string) error
}

// Overlay mounts a stack of directories.
type Overlay struct {
	Stack  *overlay.Stack
	Target string
}

// Tmpfs mounts an empty filesystem in memory.
type Tmpfs struct {
	Target string
	// Mode of its root directory.
	Mode os.FileMode
	// Shared lets what is mounted in it later spread to containers that
	// were made before.
	Shared bool
}

// Bind makes a file or directory of the engine visible, with everything that is
// mounted below it.
type Bind struct {
	Source, Target string
	// Within, if not empty, is the tree that Source is a path of: symbolic links
	// on the way are resolved inside.
	Within   string
	Writable bool
	// Optional leaves it out if Source does not exist.
	Optional bool
	// Devices lets device nodes in it work.
	Devices bool
	// AsMounted leaves it to whoever has mounted Source how it is protected.
	AsMounted bool
}

// Attach attaches a detached mount, whose descriptor stays the caller's, to a
// directory, which it makes.
type Attach struct {
	Mount  *os.File
	Target string
}

// Dir makes a directory.
type Dir struct {
	Target string
	Mode   os.FileMode
}

// File makes a file with some content.
type File struct {
	Target  string
	Content []byte
	Mode    os.FileMode
}

// Symlink makes a symbolic link unless something is there already.
type Symlink struct{ To, Target string }

// Describe says in one line what the step does.
func (o Overlay) Describe() string {
	mode := "ro"
	if o.Stack.Upper != "" {
		mode = "rw"
	}
	return fmt.Sprintf("overlay %s %s (%d lower)", o.Target, mode, len(o.Stack.Lower))
}

// Describe says in one line what the step does.
func (o Tmpfs) Describe() string {
	shared := ""
	if o.Shared {
		shared = " shared"
	}
	return fmt.Sprintf("tmpfs %s %04o%s", o.Target, o.Mode, shared)
}

// Describe says in one line what the step does.
func (o Bind) Describe() string {
	mode := "ro"
	if o.Writable {
		mode = "rw"
	}
	if o.Optional {
		mode += " optional"
	}
	if o.Devices {
		mode += " dev"
	}
	if o.AsMounted {
		mode = "as mounted"
	}
	return fmt.Sprintf("bind %s <- %s %s", o.Target, filepath.Join(o.Within, o.Source), mode)
}

// Describe says in one line what the step does.
func (o Attach) Describe() string { return "attach " + o.Target }

// Describe says in one line what the step does.
func (o Dir) Describe() string { return fmt.Sprintf("dir %s %04o", o.Target, octal(o.Mode)) }

// octal is a mode as chmod(1) has it.
func octal(m os.FileMode) os.FileMode {
	if m&os.ModeSticky != 0 {
		return m.Perm() | 0o1000
	}
	return m & 0o7777
}

// Describe says in one line what the step does.
func (o File) Describe() string {
	return fmt.Sprintf("file %s %04o (%d bytes)", o.Target, o.Mode, len(o.Content))
}

// Describe says in one line what the step does.
func (o Symlink) Describe() string { return fmt.Sprintf("symlink %s -> %s", o.Target, o.To) }

// Apply mounts the stack.
func (o Overlay) Apply(root string) error {
	target, err := makeDir(root, o.Target, 0o755)
	if err != nil {
		return err
	}
	defer target.Close()
	return o.Stack.MountAt(target)
}

// Apply mounts the filesystem.
func (o Tmpfs) Apply(root string) error {
	target, err := makeDir(root, o.Target, o.Mode.Perm())
	if err != nil {
		return err
	}
	defer target.Close()
	fd, err := newTmpfs(o.Mode)
	if err != nil {
		return fmt.Errorf("cannot mount %s in build root: %w", o.Target, err)
	}
	defer unix.Close(fd)
	if err := attach(fd, target); err != nil {
		return fmt.Errorf("cannot mount %s in build root: %w", o.Target, err)
	}
	if o.Shared {
		attr := unix.MountAttr{Propagation: unix.MS_SHARED}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("cannot share %s in build root: %w", o.Target, err)
		}
	}
	return nil
}

// newTmpfs returns a detached filesystem.
func newTmpfs(mode os.FileMode) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", "tmpfs"); err != nil {
		return -1, err
	}
	if err := unix.FsconfigSetString(fs, "mode", fmt.Sprintf("%04o", mode)); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}

// attach attaches a detached mount to an open file or directory: by its name
// something else could have taken its place.
func attach(mount int, target *os.File) error {
	return unix.MoveMount(mount, "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// Apply makes the bind mount.
func (o Bind) Apply(root string) error {
	source, err := o.open()
	if errors.Is(err, os.ErrNotExist) && o.Optional {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot provide %s in build root: %w", o.Target, err)
	}
	defer source.Close()
	st, err := source.Stat()
	if err != nil {
		return fmt.Errorf("cannot provide %s in build root: %w", o.Target, err)
	}
	var target *os.File
	if st.IsDir() {
		target, err = makeDir(root, o.Target, 0o755)
	} else {
		target, err = makeFile(root, o.Target)
	}
	if err != nil {
		return err
	}
	defer target.Close()
	// It is protected before it can be seen: there may be a container that
	// it spreads to.
	fd, err := unix.OpenTree(int(source.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("cannot mount %s in build root: %w", o.Target, err)
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	if !o.Devices {
		attr.Attr_set |= unix.MOUNT_ATTR_NODEV
	}
	if !o.Writable {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if o.AsMounted {
		attr.Attr_set = 0
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("cannot protect %s in build root: %w", o.Target, err)
	}
	if err := attach(fd, target); err != nil {
		return fmt.Errorf("cannot mount %s in build root: %w", o.Target, err)
	}
	return nil
}

func (o Bind) open() (*os.File, error) {
	if o.Within != "" {
		return openInside(o.Within, o.Source)
	}
	return os.OpenFile(o.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
}

// openInside opens a path of a tree, without access to its content; symbolic links
// lead nowhere else.
func openInside(tree, path string) (*os.File, error) {
	f, err := pathrs.OpenInRoot(tree, path)
	var errno unix.Errno
	if errors.As(err, &errno) { // the library's words are for programmers
		return nil, &os.PathError{Op: "open", Path: filepath.Join(tree, path), Err: errno}
	}
	return f, err
}

// Apply makes the directory.
func (o Dir) Apply(root string) error {
	target, err := makeDir(root, o.Target, o.Mode)
	if err != nil {
		return err
	}
	return errors.Join(target.Chmod(o.Mode), target.Close())
}

// Apply writes the file.
func (o File) Apply(root string) error {
	target, err := makeFile(root, o.Target)
	if err != nil {
		return err
	}
	err = target.Truncate(0)
	if err == nil {
		_, err = target.Write(o.Content)
	}
	if err = errors.Join(err, target.Chmod(o.Mode), target.Close()); err != nil {
		return fmt.Errorf("cannot write %s in build root: %w", o.Target, err)
	}
	return nil
}

// Apply makes the link.
func (o Symlink) Apply(root string) error {
	dir, err := makeDir(root, filepath.Dir(o.Target), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Symlinkat(o.To, int(dir.Fd()), filepath.Base(o.Target))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot link %s in build root: %w", o.Target, err)
	}
	return nil
}

// makeDir opens a directory below root, which it makes if need be.
func makeDir(root, path string, mode os.FileMode) (*os.File, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make %s in build root: %w", path, err)
	}
	defer dir.Close()
	target, err := makeInside(dir, filepath.Clean("/"+path), mode)
	if err != nil {
		return nil, fmt.Errorf("cannot make %s in build root: %w", path, err)
	}
	return target, nil
}

// makeInside opens a directory of the tree at dir, and makes it and those above it if need be;
// symbolic links lead nowhere else (openat2(2)).
func makeInside(dir *os.File, path string, mode os.FileMode) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for made := false; ; made = true {
		fd, err := unix.Openat2(int(dir.Fd()), path, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case err == unix.EAGAIN: // something was renamed meanwhile
			made = false
			continue
		case err != unix.ENOENT || made || path == "/":
			return nil, err
		}
		parent, err := makeInside(dir, filepath.Dir(path), mode)
		if err != nil {
			return nil, err
		}
		err = unix.Mkdirat(int(parent.Fd()), filepath.Base(path), uint32(mode.Perm()))
		parent.Close()
		if err != nil && err != unix.EEXIST {
			return nil, err
		}
	}
}

// makeFile opens a file below root for writing, which it makes if need be.
func makeFile(root, path string) (*os.File, error) {
	dir, err := makeDir(root, filepath.Dir(path), 0o755)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), filepath.Base(path), unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot make %s in build root: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Layout applies the steps below root, an existing directory. The returned
// function takes all mounts away again.
func Layout(root string, ops []Op) (undo func() error, err error) {
	undo = func() error {
		// Detaching the topmost mount takes everything below it along.
		for {
			err := unix.Unmount(root, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("unmount build root: %w", err)
			}
		}
	}
	for _, op := range ops {
		if err := op.Apply(root); err != nil {
			return nil, errors.Join(err, undo())
		}
	}
	return undo, nil
}

// DescribeAll lists the steps, one a line.
func DescribeAll(ops []Op) string {
	var b strings.Builder
	for _, op := range ops {
		b.WriteString(op.Describe())
		b.WriteByte('\n')
	}
	return b.String()
}

// BindInside binds path, resolved inside root, read-only at target.
func BindInside(root, path, target string) error {
	return Bind{Within: root, Source: path, Target: filepath.Base(target)}.Apply(filepath.Dir(target))
}

// Apply does it below root.
func (o Attach) Apply(root string) error {
	target, err := makeDir(root, o.Target, 0o755)
	if err != nil {
		return fmt.Errorf("attach %s: %w", o.Target, err)
	}
	defer target.Close()
	if err := attach(int(o.Mount.Fd()), target); err != nil {
		return fmt.Errorf("attach %s: %w", o.Target, err)
	}
	return nil
}
