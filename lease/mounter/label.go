package mounter

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// seals are those of a file that nobody can change anymore.
const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

// checkSealed returns a list's size. It refuses one that is too large, or in something
// else than a memfd that nobody can change anymore.
func checkSealed(fd int) (size int64, err error) {
	var st unix.Stat_t
	have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || have&seals != seals || unix.Fstat(fd, &st) != nil || st.Size > wire.MaxLabels {
		return 0, wire.Errorf(syscall.EINVAL, "a list of labels is a sealed memfd of at most %d bytes", wire.MaxLabels)
	}
	return st.Size, nil
}

// label stores a list of entries, in a memfd that was checked, in a filesystem that
// nobody has mounted.
func (m *Mounter) label(p *partition, memfd int, size int64) error {
	if p.mounted(grace) {
		return wire.Errorf(syscall.EBUSY, "the filesystem is mounted: unmount it first")
	}
	m.labelling.Lock() // one list in memory
	defer m.labelling.Unlock()
	list := make([]byte, size)
	if n, err := unix.Pread(memfd, list, 0); err != nil || int64(n) != size { // a memfd has no short reads
		return wire.Errorf(syscall.EIO, "read the list of labels: %d bytes, %v", n, err)
	}
	// Nothing is done if the list is not good to its end.
	for _, err := range wire.Labels(list) {
		if err != nil {
			return err
		}
	}
	mnt, err := p.mount(false, "")
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	root, err := unix.Openat(mnt, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the filesystem: %w", err)
	}
	defer unix.Close(root)
	// Flags come last: what is immutable takes no label.
	for _, store := range []func(path int, e wire.Entry) error{storeXattrs, storeFlags} {
		for e := range wire.Labels(list) {
			if err := at(root, e, store); err != nil {
				return fmt.Errorf("label %.200q: %w", e.Path, err)
			}
		}
	}
	return wire.In("write out labels", unix.Syncfs(root))
}

// at opens the path of an entry, whatever is there, and does not leave the filesystem.
func at(root int, e wire.Entry, do func(path int, e wire.Entry) error) error {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd, err := unix.Openat2(root, e.Path, &how)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return wire.Errorf(syscall.EPERM, "the path goes through a symbolic link or out of the filesystem")
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd, e)
}

// storeXattrs goes through /proc, for xattrs of symbolic links and of files that cannot
// be opened.
func storeXattrs(path int, e wire.Entry) error {
	name := fmt.Sprintf("/proc/self/fd/%d", path)
	if e.SELinux != "" {
		if err := unix.Setxattr(name, "security.selinux", append([]byte(e.SELinux), 0), 0); err != nil {
			return fmt.Errorf("store the SELinux context: %w", err)
		}
	}
	if e.Capability == "" {
		return nil
	}
	return wire.In("store capabilities", unix.Setxattr(name, "security.capability", []byte(e.Capability), 0))
}

func storeFlags(path int, e wire.Entry) error {
	if e.Flags == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return wire.Errorf(syscall.EPERM, "only files and directories have inode flags")
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", path), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err == nil && flags|uint32(e.Flags) != flags {
		err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|uint32(e.Flags)))
	}
	return wire.In("set inode flags", err)
}
