package sandbox

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// cmdline is a file that every build root has, which hides what this host was
// booted with from tools that write boot loader entries.
var cmdline = File{Target: "/run/osbuild/cmdline", Content: []byte("root=/dev/osbuild\n"), Mode: 0o444}

// mountInside mounts, in the container's own namespaces, the parts of its file
// tree that a stage may in turn bind or mount into a tree to run programs there:
// the kernel refuses that for mounts that come from outside and are locked. There
// is nothing in them that has to be protected. libcontainer mounts nothing below
// /proc, so /proc is made here as well.
func mountInside(root string) error {
	proc := filepath.Join(root, "proc")
	if err := unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount /proc in build root: %w", err)
	}
	if err := unix.Mount(filepath.Join(root, cmdline.Target), filepath.Join(proc, "cmdline"), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount /proc/cmdline in build root: %w", err)
	}
	for _, op := range devices() {
		if err := op.Apply(root); err != nil {
			return err
		}
	}
	return nil
}

// devices lay out /dev as osbuild does: stages make the links in it that they
// need. A user namespace cannot make nodes, so the host's are bound.
func devices() []Op {
	ops := []Op{Tmpfs{Target: "/dev", Mode: 0o755}}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		ops = append(ops, Bind{Source: "/dev/" + name, Target: "/dev/" + name, Writable: true, Devices: true})
	}
	return append(ops,
		Bind{Source: "/dev/fuse", Target: "/dev/fuse", Writable: true, Devices: true, Optional: true},
		Dir{Target: "/dev/shm", Mode: 0o755},
	)
}

// makeDev makes dir/dev for one stage on the engine's side, where services and
// the loop server make nodes in it; what they bind there spreads to the container.
func makeDev(dir string) (undo func() error, err error) {
	target := filepath.Join(dir, "dev")
	undo = func() error {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount /dev of a stage: %w", err)
		}
		return nil
	}
	ops := devices()
	ops[0] = Tmpfs{Target: "/dev", Mode: 0o755, Shared: true}
	for _, op := range ops {
		if err := op.Apply(dir); err != nil {
			return nil, errors.Join(err, undo())
		}
	}
	attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, 0, &attr); err != nil {
		return nil, errors.Join(fmt.Errorf("make /dev: %w", err), undo())
	}
	return undo, nil
}
