package mounter

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// label stores a list of entries in a filesystem that nobody has mounted. The list is in
// a memfd that nobody can change anymore.
func (m *Mounter) label(l *lease, index uint8, memfd int) error {
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	var st unix.Stat_t
	have, err := unix.FcntlInt(uintptr(memfd), unix.F_GET_SEALS, 0)
	if err != nil || have&seals != seals || unix.Fstat(memfd, &st) != nil || st.Size > wire.MaxLabels {
		return wire.Errorf(syscall.EINVAL, "a list of labels is a sealed memfd of at most %d bytes", wire.MaxLabels)
	}
	p, err := l.find(index, true, true)
	if err == nil {
		err = p.release(grace)
	}
	if err != nil {
		return err
	}
	m.labelling.Lock() // one list in memory
	defer m.labelling.Unlock()
	list := make([]byte, st.Size)
	if n, err := unix.Pread(memfd, list, 0); err != nil || n != len(list) { // a memfd has no short reads
		return wire.Errorf(syscall.EIO, "read the list of labels: %d bytes, %v", n, err)
	}
	// Nothing is done if the list is not good to its end.
	for _, err := range wire.Labels(list) {
		if err != nil {
			return err
		}
	}
	root, err := p.root()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	// Flags come last: what is immutable takes no label.
	for _, flags := range []bool{false, true} {
		for e := range wire.Labels(list) {
			if err := store(root, e, flags); err != nil {
				return fmt.Errorf("label %.200q: %w", e.Path, err)
			}
		}
	}
	return wire.In("write out labels", unix.Syncfs(root))
}

// store stores an entry's flags or all but them, without leaving the filesystem. Xattrs go
// through /proc, for those of symbolic links and of files that cannot be opened.
func store(root int, e wire.Entry, flags bool) error {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	if flags && e.Flags == 0 {
		return nil
	}
	if flags {
		how.Flags = unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC
	}
	fd, err := unix.Openat2(root, e.Path, &how)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return wire.Errorf(syscall.EPERM, "the path goes through a symbolic link or out of the filesystem")
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if flags {
		has, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		if err == nil {
			err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(has|uint32(e.Flags)))
		}
		return wire.In("set inode flags", err)
	}
	name := fmt.Sprintf("/proc/self/fd/%d", fd)
	if e.SELinux != "" {
		err = unix.Setxattr(name, "security.selinux", append([]byte(e.SELinux), 0), 0)
	}
	if err == nil && e.Capability != [20]byte{} {
		err = unix.Setxattr(name, "security.capability", e.Capability[:], 0)
	}
	return wire.In("store extended attributes", err)
}
