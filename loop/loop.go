// Package loop attaches files to loop devices (loop(4)), so that they can be used
// like disks. It needs root of the machine: a user namespace's is not enough to
// mount what is on them.
//
// A device is detached by Close; if that is never reached, because the process
// was killed, the kernel detaches it with its last user.
package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Major is the device number of loop devices.
const Major = 7

// control is where the kernel hands out free devices.
const control = "/dev/loop-control"

const (
	// patience is how long others may keep a device from being attached or
	// detached, such as udev, which looks at every new one.
	patience = 30 * time.Second
	// pause is the time between two attempts.
	pause = 10 * time.Millisecond
)

// Options of a device.
type Options struct {
	// Offset is where in the file the device begins, Size how large it is,
	// in bytes; 0 is up to the file's end.
	Offset, Size uint64
	// SectorSize in bytes; 0 is 512.
	SectorSize uint32
	ReadOnly   bool
	// Partitions makes the kernel look for a partition table.
	Partitions bool
	// Lock takes the lock that keeps udev away
	// (https://systemd.io/BLOCK_DEVICE_LOCKING).
	Lock bool
}

// Device is an attached loop device.
type Device struct {
	// Minor is its device number.
	Minor   uint32
	file    *os.File
	backing *os.File
	inode   unix.Stat_t
}

// Available returns an error if this process cannot have loop devices.
func Available() error {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("loop devices need root, and a kernel that has them: %w", err)
	}
	return f.Close()
}

// Attach attaches the file, a regular one or a block device, to a free device. A
// file that was opened for reading only makes a read-only device. The caller
// closes the device; file may be closed before.
func Attach(file *os.File, o Options) (_ *Device, err error) {
	d := &Device{}
	if err := unix.Fstat(int(file.Fd()), &d.inode); err != nil {
		return nil, fmt.Errorf("attach loop device: %w", err)
	}
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("attach loop device: %w", err)
	}
	d.backing = os.NewFile(uintptr(fd), file.Name())
	defer func() {
		if err != nil {
			d.backing.Close()
		}
	}()
	ctl, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach loop device: %w", err)
	}
	defer ctl.Close()
	for start := time.Now(); ; time.Sleep(pause) {
		err := d.attach(ctl, o)
		switch {
		case err == nil:
			return d, nil
		case !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EWOULDBLOCK) || time.Since(start) > patience:
			return nil, fmt.Errorf("attach loop device: %w", err)
		}
	}
}

// attach tries the device that the kernel has free now.
func (d *Device) attach(ctl *os.File, o Options) error {
	minor, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return fmt.Errorf("get a free one: %w", err)
	}
	d.Minor = uint32(minor)
	path := filepath.Join("/dev", d.Name())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != d.Number()) {
		err = fmt.Errorf("%s is not the device %d:%d", path, Major, minor)
	}
	if err == nil && o.Lock {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		config := unix.LoopConfig{Fd: uint32(d.backing.Fd()), Size: o.SectorSize}
		config.Info.Offset, config.Info.Sizelimit = o.Offset, o.Size
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		if o.ReadOnly {
			config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
		}
		if o.Partitions {
			config.Info.Flags |= unix.LO_FLAGS_PARTSCAN
		}
		err = unix.IoctlLoopConfigure(int(f.Fd()), &config)
	}
	if err != nil {
		f.Close()
		return err
	}
	d.file = f
	return nil
}

// Name is the device's name in /dev, such as "loop0".
func (d *Device) Name() string { return "loop" + strconv.Itoa(int(d.Minor)) }

// Number is the device's number, as in stat(2).
func (d *Device) Number() uint64 { return unix.Mkdev(Major, d.Minor) }

// Node is a device as it stands in /dev.
type Node struct {
	Name   string
	Number uint64
}

// Nodes returns the device and the partitions that the kernel has found on it.
func (d *Device) Nodes() ([]Node, error) {
	nodes := []Node{{d.Name(), d.Number()}}
	found, err := filepath.Glob(filepath.Join("/sys/block", d.Name(), d.Name()+"p*", "dev"))
	if err != nil {
		return nil, err
	}
	for _, path := range found {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("partitions of %s: %w", d.Name(), err)
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(strings.TrimSpace(string(data)), "%d:%d", &major, &minor); err != nil {
			return nil, fmt.Errorf("partitions of %s: %s: %w", d.Name(), path, err)
		}
		nodes = append(nodes, Node{filepath.Base(filepath.Dir(path)), unix.Mkdev(major, minor)})
	}
	return nodes, nil
}

// Close writes everything to the file and detaches the device.
func (d *Device) Close() error {
	// What the device's page cache holds is not written by detaching it.
	err := unix.IoctlSetInt(int(d.file.Fd()), unix.BLKFLSBUF, 0)
	if err != nil {
		err = fmt.Errorf("flush %s: %w", d.Name(), err)
	}
	err = errors.Join(err, d.detach())
	if syncErr := d.backing.Sync(); syncErr != nil {
		err = errors.Join(err, fmt.Errorf("%s: %w", d.Name(), syncErr))
	}
	return errors.Join(err, d.backing.Close())
}

// detach returns when the device has let go of the file.
func (d *Device) detach() error {
	defer d.file.Close()
	for start := time.Now(); ; time.Sleep(pause) {
		// A device that somebody else has open is detached with its last user.
		err := unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_CLR_FD, 0)
		if err != nil && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("detach %s: %w", d.Name(), err)
		}
		info, err := unix.IoctlLoopGetStatus64(int(d.file.Fd()))
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("detach %s: %w", d.Name(), err)
		}
		if info.Inode != d.inode.Ino || info.Device != d.inode.Dev {
			return nil // detached, and somebody else's already
		}
		if time.Since(start) > patience {
			return fmt.Errorf("detach %s: it is still in use after %s", d.Name(), patience)
		}
	}
}
