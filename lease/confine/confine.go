// Package confine takes rights away from a process: capabilities, namespaces,
// system calls. The two halves of ossify-loop start with it:
//
//	ossify-loop --listen PATH (root; flags, socket, staging directory)
//	  | a copy of itself              | itself
//	  | Broker: empty root, no        | Mounter: own mounts and network,
//	  |   capability, own user id     |   few capabilities
//	  | execve, empty environment     | execve, empty environment
//	  | seccomp: list of what is      | seccomp: list of what is not;
//	  |   allowed                     |   ioctls: list of what is
//	 broker ---- SOCK_SEQPACKET ---- mounter
//
// Nothing can be given back after that, and each half starts over with nothing of
// whoever started the first: neither environment nor limits nor descriptors.
package confine

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// User ids that nobody has: they are above those that systemd and distributions
// give out (https://systemd.io/UIDS-GIDS) and those that ossify uses for root's
// builds, and ranges of subordinate ids that contain them are refused. The group
// ids are the same.
const (
	// BrokerID is the broker's.
	BrokerID = 0x70010000
	// MkfsID is the one of mkfs programs.
	MkfsID = 0x70010001
)

// Capabilities are all that the mounter can ever have.
func Capabilities() []int {
	return []int{
		unix.CAP_SYS_ADMIN, // mount, loop devices, security.selinux
		unix.CAP_SETUID,    // id maps, mkfs as another user
		unix.CAP_SETGID,    // the same
		unix.CAP_CHOWN,     // the file to mkfs and back
		unix.CAP_SETFCAP,   // LABEL: security.capability
		// Without these LABEL could not do its work: enter the directories of
		// other owners, open their files and set their flags, immutable too, and
		// store labels that the running policy does not know.
		unix.CAP_DAC_READ_SEARCH,
		unix.CAP_FOWNER,
		unix.CAP_LINUX_IMMUTABLE,
		unix.CAP_MAC_ADMIN,
		// The kernel ends mkfs and the broker with their parent on behalf of the
		// parent, who must be allowed to kill another user's process.
		unix.CAP_KILL,
	}
}

// Start makes this process independent of how it was started: limits, file mode
// mask, descriptors. keep are the descriptors beyond 2 that stay open when a
// program is run.
func Start(keep ...int) error {
	for limit, size := range map[int]uint64{
		unix.RLIMIT_NPROC: unix.RLIM_INFINITY, unix.RLIMIT_FSIZE: unix.RLIM_INFINITY, unix.RLIMIT_CPU: unix.RLIM_INFINITY,
		unix.RLIMIT_AS: unix.RLIM_INFINITY, unix.RLIMIT_DATA: unix.RLIM_INFINITY, unix.RLIMIT_STACK: 8 << 20,
		unix.RLIMIT_NOFILE: 16384, unix.RLIMIT_CORE: 0,
	} {
		var old unix.Rlimit
		err := unix.Getrlimit(limit, &old)
		if err == nil && unix.Setrlimit(limit, &unix.Rlimit{Cur: size, Max: size}) != nil {
			// Without CAP_SYS_RESOURCE it goes no further than this.
			err = unix.Setrlimit(limit, &unix.Rlimit{Cur: min(size, old.Max), Max: min(size, old.Max)})
		}
		if err != nil {
			return fmt.Errorf("set limit %d of this process: %w", limit, err)
		}
	}
	unix.Umask(0o077)
	if err := unix.CloseRange(3, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}
	for _, fd := range keep {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// Mounter makes this process the mounter: it runs the program again, as root with
// the mounter's capabilities, in its own mount namespace, where everything is
// read-only but an empty filesystem in memory on dir, the working directory.
func Mounter(dir string, args []string) error {
	runtime.LockOSThread()
	if err := namespaces(); err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("make the mounter's view of the system read-only: %w", err)
	}
	// Id maps are written to /proc; what rules the machine stays as it is.
	for _, path := range []string{"/proc/sys", "/proc/sysrq-trigger"} {
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil && err != unix.ENOENT {
			return fmt.Errorf("keep %s read-only: %w", path, err)
		}
	}
	attr = unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/proc", 0, &attr); err != nil {
		return fmt.Errorf("make /proc writable: %w", err)
	}
	if err := memory(dir, 0); err != nil {
		return err
	}
	if err := unix.Mkdir("mnt", 0o700); err != nil {
		return fmt.Errorf("make a place to mount: %w", err)
	}
	return again(args, Capabilities())
}

// Broker makes this process the broker: it runs the program again, without any
// capability, as a user of its own, in an empty root that nothing can be written to.
// It ends with its parent.
func Broker(dir string, args []string) error {
	runtime.LockOSThread()
	program, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	if err := namespaces(); err != nil {
		return err
	}
	if err := memory(dir, unix.MS_RDONLY); err != nil {
		return err
	}
	// The old root is stacked on the new one and can be taken off
	// (pivot_root(2), "." twice).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("enter an empty root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the system's root: %w", err)
	}
	if err := drop(nil); err != nil {
		return err
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("leave all groups: %w", err)
	}
	if err := syscall.Setresgid(BrokerID, BrokerID, BrokerID); err != nil {
		return fmt.Errorf("become the broker's group: %w", err)
	}
	if err := syscall.Setresuid(BrokerID, BrokerID, BrokerID); err != nil {
		return fmt.Errorf("become the broker's user: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("end with the mounter: %w", err)
	}
	return execute(program, args)
}

// namespaces gives this thread a network without anything, and mounts that nobody
// else sees. Unmounting on the machine does unmount here, or a disk would be in use
// for as long as the helper runs.
func namespaces() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// memory mounts a filesystem in memory on dir and enters it.
func memory(dir string, flags uintptr) error {
	if err := unix.Mount("ossify-loop", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|flags, "mode=0700,size=64k,nr_inodes=16"); err != nil {
		return fmt.Errorf("mount a filesystem in memory on %s: %w", dir, err)
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter %s: %w", dir, err)
	}
	return nil
}

// again drops all capabilities but those of keep and runs the program again.
func again(args []string, keep []int) error {
	program, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	if err := drop(keep); err != nil {
		return err
	}
	return execute(program, args)
}

// drop takes all capabilities but those of keep away from what this thread
// executes next, for good.
func drop(keep []int) error {
	for c := 0; ; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err == unix.EINVAL {
			break // c is none anymore
		} else if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	var sets [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("drop inheritable capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

// execute runs an open program with an empty environment. It returns only if that
// fails.
func execute(program int, args []string) error {
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return fmt.Errorf("run this program again: %w", err)
	}
	empty, none := [1]byte{}, [1]*byte{}
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(program), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&none[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("run this program again: %w", os.NewSyscallError("execveat", errno))
}
