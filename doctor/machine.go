package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/ossify/ossify/sandbox"
	"golang.org/x/sys/unix"
)

// floor is the oldest kernel that builds run on: overlay mounts in user namespaces are of 5.11,
// mount_setattr(2) is of 5.12, landlock and what else is used of 5.13.
var floor = [2]int{5, 13}

func kernel(context.Context) Check {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return lacking(fmt.Errorf("uname: %w", err))
	}
	return release(unix.ByteSliceToString(name.Release[:]))
}

// release is the result for a kernel of that name.
func release(name string) Check {
	var version [2]int
	if _, err := fmt.Sscanf(name, "%d.%d", &version[0], &version[1]); err != nil {
		return bad(fmt.Sprintf("a kernel with the version %s, which is not understood", name), newerKernel(floor))
	}
	if slices.Compare(version[:], floor[:]) < 0 {
		return bad(fmt.Sprintf("Linux %s; %d.%d or later is needed", name, floor[0], floor[1]), newerKernel(floor))
	}
	return ok("Linux %s", name)
}

func newerKernel(v [2]int) string {
	return fmt.Sprintf("start Linux %d.%d or later; Debian 12, Ubuntu 22.04 and RHEL 9 have it", v[0], v[1])
}

// seccomp loads a filter with a listener, in a process of its own.
func (o *Options) seccomp(ctx context.Context) Check {
	err := o.try(ctx, trySeccomp)
	fix := "start a kernel that was built with CONFIG_SECCOMP_FILTER"
	switch {
	case err == nil:
		return ok("filters and user notification")
	case strings.Contains(err.Error(), unix.EBUSY.Error()):
		return bad("filters, but no user notification: a program around this one, such as LXC, has taken it", "run ossify outside of that container")
	}
	return bad(err.Error(), fix)
}

// scopes is the version of landlock's interface that has scopes (landlock(7)).
const scopes = 6

func landlock(context.Context) Check {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return landlockVersion(int(version), errno)
}

// landlockVersion is the result for what the kernel answers.
func landlockVersion(version int, errno syscall.Errno) Check {
	switch {
	case errno == unix.EOPNOTSUPP:
		return bad("the kernel has it, but it is off", "cat /sys/kernel/security/lsm # start the kernel with lsm=landlock,THESE")
	case errno != 0:
		return bad(fmt.Sprintf("the kernel has none (%v)", errno), "start Linux 6.12 or later, built with CONFIG_SECURITY_LANDLOCK")
	case version < scopes:
		return bad(fmt.Sprintf("version %d of its interface, without scopes, which are of version %d", version, scopes), "start Linux 6.12 or later")
	}
	return ok("version %d of its interface, with scopes", version)
}

// cgroups is never bad: without them the engine looks at what stages use.
func (o *Options) cgroups(ctx context.Context) Check {
	const without = "ossify looks itself at what stages use"
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return ok("none; %s", without)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return ok("version 1; %s", without)
	}
	if err := o.try(ctx, tryGroups); err != nil {
		return ok("version 2; %s: %v", without, err)
	}
	return ok("version 2, systemd gives builds their own: the kernel enforces limits")
}

func fuse(context.Context) Check {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR|unix.O_NONBLOCK, 0)
	switch {
	case err == nil:
		f.Close()
		return ok("can be opened")
	case errors.Is(err, os.ErrPermission):
		return bad("cannot be opened: permission denied", "sudo chmod 0666 /dev/fuse")
	}
	return bad(fmt.Sprintf("cannot be opened: %v", errors.Unwrap(err)), "sudo modprobe fuse")
}

// temporaryFiles writes to the directory that programs use.
func temporaryFiles(context.Context) Check {
	dir := os.TempDir()
	f, err := os.CreateTemp(dir, ".ossify-doctor-")
	if err == nil {
		_, err = f.Write(make([]byte, 64<<10))
		err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if err == nil {
		return ok("%s can be written to", dir)
	}
	fix := "sudo mount -o remount,rw,mode=1777 " + dir
	switch {
	case os.Getenv("TMPDIR") != "":
		fix = "unset TMPDIR"
	case errors.Is(err, unix.ENOSPC):
		fix = "du -xah " + dir + " | sort -h | tail # and remove what nobody needs"
	case errors.Is(err, os.ErrPermission):
		fix = "sudo chmod 1777 " + dir
	}
	return bad(fmt.Sprintf("%s cannot be written to: %v", dir, cause(err)), fix)
}

// cause is the system's part of an error about a path.
func cause(err error) error {
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		return path.Err
	}
	return err
}

func userNamespaces(ctx context.Context) Check {
	if err := sandbox.CheckSwitches(); err != nil {
		return lacking(err)
	}
	if err := sandbox.TryUserNamespace(ctx); err != nil {
		return lacking(err)
	}
	return ok("a process can be started in one")
}
