package stages

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// mountKernelFilesystems gives the tree the stage's own /proc, /dev and /sys,
// as osbuild's chroot stages have them. With create the missing directories
// are made and stay; without it they are left out. The caller calls release,
// which is never nil, before it returns.
func mountKernelFilesystems(args *module.Args, create bool) (release func() error, err error) {
	var mounted []string
	release = func() error {
		var errs []error
		for i := len(mounted) - 1; i >= 0; i-- {
			if err := unix.Unmount(mounted[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", mounted[i], err))
			}
		}
		return errors.Join(errs...)
	}
	for _, path := range []string{"/proc", "/dev", "/sys"} {
		target, err := treeTarget(args, path)
		if err != nil {
			return release, err
		}
		if _, err := os.Stat(target); errors.Is(err, os.ErrNotExist) {
			if !create {
				continue
			}
			if err := os.MkdirAll(target, 0o755); err != nil {
				return release, err
			}
		}
		if err := unix.Mount(path, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return release, fmt.Errorf("mount %s in the tree: %w", path, err)
		}
		mounted = append(mounted, target)
		// Or unmounting would reach the mounts that were bound.
		if err := unix.Mount("", target, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return release, fmt.Errorf("make %s in the tree private: %w", path, err)
		}
	}
	return release, nil
}

// runMounted runs the tree's own program with /proc, /dev and /sys mounted in the
// tree, which gets those directories if they are missing.
func runMounted(ctx context.Context, args *module.Args, stage, tool string, argv ...string) (err error) {
	cmd, err := treeCommand(ctx, args, stage, tool, argv...)
	if err != nil {
		return err
	}
	release, err := mountKernelFilesystems(args, true)
	defer func() { err = errors.Join(err, release()) }()
	if err != nil {
		return err
	}
	return run(cmd)
}
