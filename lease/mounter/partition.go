package mounter

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// patience is how long a loop device may be in somebody's way, such as udev's, which looks
// at every new one; grace is how long a filesystem may take to be gone after it was unmounted;
// pause is the time between two attempts.
const patience, grace, pause = 5 * time.Second, 500 * time.Millisecond, 10 * time.Millisecond

// partition is a file without a name, and what has become of it.
type partition struct {
	file   *os.File
	size   uint64
	sector uint32
	// kind is the filesystem, 0 if there is none.
	kind wire.Filesystem
	// loop is the file's loop device, as long as the filesystem can be mounted
	// somewhere.
	loop *os.File
	// exported says that somebody else can know the bytes, so that they are
	// no longer mounted.
	exported bool
}

// newPartition makes a file of size bytes in the staging directory; all of them are
// on the disk, for an image with holes loses data when the disk is full.
func newPartition(staging int, size uint64, sector uint32) (*partition, error) {
	fd, err := unix.Openat(staging, ".", unix.O_TMPFILE|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a file in the staging directory: %w", err)
	}
	p := &partition{file: os.NewFile(uintptr(fd), "partition"), size: size, sector: sector}
	if err = p.allocate(); err != nil {
		p.file.Close()
	}
	return p, err
}

// allocate fills the file's holes.
func (p *partition) allocate() error {
	err := error(unix.EINTR)
	for err == unix.EINTR {
		err = unix.Fallocate(p.fd(), 0, 0, int64(p.size))
	}
	if err == unix.ENOSPC {
		return wire.Errorf(syscall.ENOSPC, "the disk with the helper's staging directory has not got %d bytes left", p.size)
	}
	return wire.In(fmt.Sprintf("allocate %d bytes in the staging directory", p.size), err)
}

func (p *partition) fd() int { return int(p.file.Fd()) }

// attach makes the file a loop device that vanishes with its last user.
func (p *partition) attach() error {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("the kernel has no loop devices: %w", err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(p.fd()), Size: p.sector}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	for start := time.Now(); ; time.Sleep(pause) {
		minor, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		dev, openErr := os.OpenFile(fmt.Sprintf("/dev/loop%d", minor), os.O_RDWR, 0)
		if err = cmp.Or(err, openErr, unix.IoctlLoopConfigure(int(dev.Fd()), &config)); err == nil {
			p.loop = dev
			return nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, os.ErrNotExist) || time.Since(start) > patience {
			return fmt.Errorf("attach a loop device: %w", err)
		}
	}
}

// release lets go of the loop device. It fails with EBUSY if the filesystem is still mounted
// somewhere after so long: nobody else can have a mounted device alone (O_EXCL, open(2)).
func (p *partition) release(wait time.Duration) error {
	for start := time.Now(); p.loop != nil; time.Sleep(pause) {
		if fd, err := unix.Open(p.loop.Name(), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0); err == nil {
			err = errors.Join(p.loop.Sync(), unix.Close(fd), p.loop.Close())
			p.loop = nil
			return wire.In("write out the partition", err)
		} else if time.Since(start) >= wait {
			return wire.Errorf(syscall.EBUSY, "the filesystem is mounted: unmount it first")
		}
	}
	return nil
}

// mount mounts the filesystem detached, for nobody yet. The caller closes the
// descriptor. A superblock that exists already is used again.
func (p *partition) mount(readOnly bool, subvolume string) (int, error) {
	if p.loop == nil {
		if err := p.attach(); err != nil {
			return -1, err
		}
	}
	fs, err := unix.Fsopen(p.kind.String(), unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, wire.Errorf(syscall.ENODEV, "the kernel has no %s: %v", p.kind, err)
	}
	defer unix.Close(fs)
	err = unix.FsconfigSetString(fs, "source", p.loop.Name())
	switch p.kind {
	case wire.Ext4:
		err = cmp.Or(err, unix.FsconfigSetString(fs, "errors", "remount-ro"))
	case wire.XFS:
		err = cmp.Or(err, unix.FsconfigSetFlag(fs, "nouuid"))
	case wire.Btrfs:
		err = cmp.Or(err, unix.FsconfigSetFlag(fs, "nodiscard"))
	}
	if err == nil && subvolume != "" {
		err = unix.FsconfigSetString(fs, "subvol", subvolume)
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	attr := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if readOnly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	mnt := -1
	if err == nil {
		mnt, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	}
	if err != nil {
		why := make([]byte, 1024) // the kernel's words
		n, _ := unix.Read(fs, why)
		if errors.Is(err, unix.EEXIST) {
			err = wire.Errorf(syscall.EEXIST, "a btrfs with the same uuid is mounted on this machine, and before Linux 6.7 there can be one only: try again later")
		}
		return -1, fmt.Errorf("mount %s: %w %s", p.kind, err, strings.TrimSpace(string(why[:max(n, 0)])))
	}
	return mnt, nil
}

// root opens the filesystem's root, in a mount of its own that goes with the descriptor.
func (p *partition) root() (int, error) {
	mnt, err := p.mount(false, "")
	if err != nil {
		return -1, err
	}
	defer unix.Close(mnt)
	root, err := unix.Openat(mnt, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return root, wire.In("open the filesystem", err)
}

// sync writes out everything that was written to the filesystem.
func (p *partition) sync() error {
	err := p.release(0)
	if errors.Is(err, unix.EBUSY) {
		var root int
		if root, err = p.root(); err == nil {
			err = errors.Join(unix.Syncfs(root), unix.Close(root))
		}
	}
	return wire.In("write out the filesystem", errors.Join(err, p.file.Sync()))
}

// export opens the file for reading; who has that can open it again, for reading.
func (p *partition) export() (int, error) {
	if err := errors.Join(p.release(grace), p.file.Sync(), p.file.Chmod(0o444)); err != nil {
		return -1, err
	}
	p.exported = true
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", p.fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// close gives the bytes back when nobody has them anymore: no mount, and no descriptor
// that was exported. The kernel gives a lease for writing (F_SETLEASE, fcntl(2)) only
// to somebody who has a file alone.
func (p *partition) close() {
	for wait := pause; ; wait = min(2*wait, 20*pause) {
		if err := p.release(0); !errors.Is(err, unix.EBUSY) {
			if _, err := unix.FcntlInt(p.file.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != unix.EAGAIN {
				p.file.Close()
				return
			}
		}
		time.Sleep(wait)
	}
}

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
	_, err = unix.Pread(memfd, list, 0) // a memfd has no short reads
	entries, listErr := wire.Labels(list)
	if err = cmp.Or(err, listErr); err != nil {
		return err
	}
	root, err := p.root()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	// Flags come last: what is immutable takes no label.
	for _, flags := range []bool{false, true} {
		for _, e := range entries {
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
	if flags && e.Flags == 0 {
		return nil
	}
	how := unix.OpenHow{Flags: unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
	if flags {
		how.Flags |= unix.O_NONBLOCK
	} else {
		how.Flags |= unix.O_PATH
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
