package mounts

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// filesystem mounts the device of the call at its target. data are options that
// the filesystem understands.
func filesystem(kind string, call *module.MountCall, readOnly bool, data ...string) (string, func() error, error) {
	point, err := call.Point()
	if err != nil {
		return "", nil, err
	}
	flags := uintptr(0)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(call.Source, point, kind, flags, strings.Join(data, ",")); err != nil {
		return "", nil, fmt.Errorf("mount %s of %s at %s: %w", kind, call.Source, call.Target, reason(kind, err))
	}
	return point, func() error { return unmount(point) }, nil
}

// reason says more where the kernel's word is known to puzzle.
func reason(kind string, err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: this kernel has no %s", err, kind)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: there is no %s on the device, or it does not know one of the options (the kernel's log tells)", err, kind)
	}
	return err
}

// unmount writes all to the device and takes the mount away, unless somebody else
// did already.
func unmount(point string) error {
	f, err := os.Open(point)
	if err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	err = unix.Syncfs(int(f.Fd()))
	f.Close()
	if err != nil {
		return fmt.Errorf("sync %s: %w", point, err)
	}
	err = unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: nothing is mounted there
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	return nil
}
