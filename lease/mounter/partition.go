package mounter

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

const (
	// patience is how long a loop device may be in somebody's way, such as
	// udev's, which looks at every new one.
	patience = 5 * time.Second
	// grace is how long a filesystem may take to be gone after it was unmounted.
	grace = 500 * time.Millisecond
	// pause is the time between two attempts.
	pause = 10 * time.Millisecond
)

// partition is a file without a name, and what has become of it.
type partition struct {
	file   *os.File
	inode  unix.Stat_t
	size   uint64
	sector uint32
	// kind is the filesystem, 0 if there is none.
	kind wire.Filesystem
	// loop is the path of the loop device that the file had last.
	loop string
	// readOnly says how the filesystem was mounted last.
	readOnly bool
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
	if err = unix.Fstat(fd, &p.inode); err == nil {
		err = p.allocate()
	}
	if err != nil {
		p.file.Close()
		return nil, err
	}
	return p, nil
}

// allocate fills the file's holes.
func (p *partition) allocate() error {
	err := unix.EINTR
	for err == unix.EINTR {
		err, _ = unix.Fallocate(p.fd(), 0, 0, int64(p.size)).(unix.Errno)
	}
	switch err {
	case 0:
		return nil
	case unix.ENOSPC:
		return wire.Errorf(syscall.ENOSPC, "the disk with the helper's staging directory has not got %d bytes left", p.size)
	}
	return fmt.Errorf("allocate %d bytes in the staging directory: %w", p.size, err)
}

func (p *partition) fd() int { return int(p.file.Fd()) }

// attached opens the file's loop device if it has one; the caller closes it. While
// it is open, it is this file's.
func (p *partition) attached() *os.File {
	if p.loop == "" {
		return nil
	}
	dev, err := os.OpenFile(p.loop, os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	if err != nil || info.Inode != p.inode.Ino || info.Device != p.inode.Dev {
		dev.Close()
		return nil
	}
	return dev
}

// attach makes the file a loop device that vanishes with its last user. The caller
// closes it.
func (p *partition) attach() (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("the kernel has no loop devices: %w", err)
	}
	defer control.Close()
	for start := time.Now(); ; time.Sleep(pause) {
		dev, err := p.tryAttach(control)
		if err == nil {
			return dev, nil
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, os.ErrNotExist) || time.Since(start) > patience {
			return nil, fmt.Errorf("attach a loop device: %w", err)
		}
	}
}

// tryAttach tries the device that the kernel has free now.
func (p *partition) tryAttach(control *os.File) (*os.File, error) {
	minor, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, err
	}
	dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", minor), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(p.fd()), Size: p.sector}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &config); err != nil {
		dev.Close()
		return nil, err
	}
	p.loop = dev.Name()
	return dev, nil
}

// mount mounts the filesystem detached, for nobody yet. The caller closes the
// descriptor. A superblock that exists already is used again.
func (p *partition) mount(readOnly bool, subvolume string) (int, error) {
	dev := p.attached()
	if dev == nil {
		p.readOnly = readOnly
		var err error
		if dev, err = p.attach(); err != nil {
			return -1, err
		}
	}
	defer dev.Close() // the superblock keeps it
	if p.readOnly && !readOnly {
		return -1, wire.Errorf(syscall.EBUSY, "the filesystem is mounted read-only: unmount it first")
	}
	fs, err := unix.Fsopen(p.kind.String(), unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, wire.Errorf(syscall.ENODEV, "the kernel has no %s: %v", p.kind, err)
	}
	defer unix.Close(fs)
	err = unix.FsconfigSetString(fs, "source", p.loop)
	switch {
	case err != nil:
	case p.kind == wire.Ext4:
		err = unix.FsconfigSetString(fs, "errors", "remount-ro")
	case p.kind == wire.XFS:
		err = unix.FsconfigSetFlag(fs, "nouuid")
	case p.kind == wire.Btrfs:
		err = unix.FsconfigSetFlag(fs, "nodiscard")
	}
	if err == nil && subvolume != "" {
		err = unix.FsconfigSetString(fs, "subvol", subvolume)
	}
	if err == nil && p.readOnly {
		err = unix.FsconfigSetFlag(fs, "ro")
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err != nil {
		return -1, fmt.Errorf("mount %s: %w%s", p.kind, err, messages(fs))
	}
	attr := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if readOnly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	return mnt, wire.In("mount "+p.kind.String(), err)
}

// messages are what the kernel has to say about a mount that failed.
func messages(fs int) string {
	var text strings.Builder
	for buffer := make([]byte, 256); ; {
		n, err := unix.Read(fs, buffer)
		if err != nil || n <= 0 || text.Len() > 1024 {
			return text.String()
		}
		fmt.Fprintf(&text, "; %s", strings.TrimSpace(string(buffer[:n])))
	}
}

// mounted says whether the filesystem is in use somewhere. One that was just unmounted
// is given the time to go.
func (p *partition) mounted(wait time.Duration) bool {
	for start := time.Now(); ; time.Sleep(pause) {
		dev := p.attached()
		if dev == nil {
			return false
		}
		dev.Close() // may be its last user
		if time.Since(start) >= wait {
			return true
		}
	}
}

// sync writes out everything that was written to the filesystem. The partition's
// own mount of it is a short one.
func (p *partition) sync() error {
	if p.mounted(0) {
		mnt, err := p.mount(p.readOnly, "")
		if err != nil {
			return err
		}
		defer unix.Close(mnt)
		root, err := unix.Openat(mnt, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open the filesystem: %w", err)
		}
		defer unix.Close(root)
		if err := unix.Syncfs(root); err != nil {
			return fmt.Errorf("write out the filesystem: %w", err)
		}
	}
	return wire.In("write out the partition", p.file.Sync())
}

// export opens the file for reading; who has that can open it again, for reading.
func (p *partition) export() (int, error) {
	if p.mounted(grace) {
		return -1, wire.Errorf(syscall.EBUSY, "the filesystem is mounted: unmount it first")
	}
	if err := p.sync(); err != nil {
		return -1, err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", p.fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		p.exported = true
		err = unix.Fchmod(fd, 0o444)
	}
	return fd, wire.In("open the partition for reading", err)
}

// unused says whether nobody has the bytes anymore: no superblock, and no descriptor
// that was exported. The kernel gives a lease for writing (F_SETLEASE, fcntl(2)) only
// to somebody who has a file alone.
func (p *partition) unused() bool {
	if p.mounted(0) {
		return false
	}
	_, err := unix.FcntlInt(p.file.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	return !errors.Is(err, unix.EAGAIN)
}
