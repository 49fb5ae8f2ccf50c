package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// RemoveAll removes dir and all that is in it, but nothing that others have
// mounted there: mounts are taken away first, and if one stays, nothing is removed.
func RemoveAll(dir string) error {
	if err := UnmountBelow(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}

// UnmountBelow takes away everything that is mounted at or below dir.
func UnmountBelow(dir string) error {
	// mountinfo has true paths.
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find mounts: %w", err)
	}
	// A mount can hide others, so what is there is looked up again until
	// nothing is left.
	for left := -1; ; {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return fmt.Errorf("list mounts: %w", err)
		}
		if len(mounts) == 0 {
			return nil
		}
		if left >= 0 && len(mounts) >= left {
			return fmt.Errorf("%d mounts cannot be taken away, such as %s", len(mounts), mounts[0].Mountpoint)
		}
		left = len(mounts)
		for i := len(mounts) - 1; i >= 0; i-- {
			err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			// It may be gone with the one it was in, or be hidden.
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("unmount %s: %w", mounts[i].Mountpoint, err)
			}
		}
	}
}
