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
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"github.com/ossify/ossify/lease/wire"
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
		unix.CAP_SYS_ADMIN,               // mount, loop devices, security.selinux
		unix.CAP_SETUID, unix.CAP_SETGID, // id maps, mkfs as another user
		unix.CAP_CHOWN,   // the file to mkfs and back
		unix.CAP_SETFCAP, // LABEL: security.capability
		// Without these LABEL could not do its work: enter the directories of
		// other owners, open their files and set their flags, immutable too, and
		// store labels that the running policy does not know.
		unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_LINUX_IMMUTABLE, unix.CAP_MAC_ADMIN,
		// The kernel ends mkfs and the broker with their parent on behalf of the
		// parent, who must be allowed to kill another user's process.
		unix.CAP_KILL,
	}
}

// step is one thing that a process does to itself.
type step struct {
	what string
	do   func() error
}

// Start makes this process, and what it runs, independent of how it was started:
// limits, file mode mask, descriptors.
func Start() error {
	const most = unix.RLIM_INFINITY
	unix.Umask(0o077)
	for limit, size := range map[int]uint64{
		unix.RLIMIT_NPROC: most, unix.RLIMIT_FSIZE: most, unix.RLIMIT_CPU: most, unix.RLIMIT_AS: most, unix.RLIMIT_DATA: most,
		unix.RLIMIT_STACK: 8 << 20, unix.RLIMIT_NOFILE: 16384, unix.RLIMIT_CORE: 0,
	} {
		var l unix.Rlimit
		err := unix.Getrlimit(limit, &l)
		l.Max = min(l.Max, size)
		l.Cur = l.Max
		if err = errors.Join(err, unix.Setrlimit(limit, &l)); err != nil {
			return fmt.Errorf("set limit %d of this process: %w", limit, err)
		}
	}
	return wire.In("close descriptors", unix.CloseRange(3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC))
}

// Mounter makes this process the mounter: it runs the program again, as root with
// the mounter's capabilities, in its own mount namespace, where everything is
// read-only but an empty filesystem in memory on dir, the working directory. Id
// maps are written to /proc; what rules the machine stays read-only there.
func Mounter(dir string, args []string) error {
	bind := func(path string) step {
		return step{"keep " + path + " read-only", func() error {
			if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != unix.ENOENT {
				return err
			}
			return nil // this kernel has none
		}}
	}
	return again(args, Capabilities(),
		step{"make the mounter's view of the system read-only", func() error {
			return unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		}},
		bind("/proc/sys"), bind("/proc/sysrq-trigger"),
		step{"make /proc writable", func() error {
			return unix.MountSetattr(unix.AT_FDCWD, "/proc", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
		}},
		memory(dir, 0),
		step{"enter " + dir, func() error { return unix.Chdir(dir) }},
		step{"make a place to mount", func() error { return unix.Mkdir("mnt", 0o700) }},
		// What the machine's other disks are is none of mkfs' business: mkfs.btrfs refuses
		// uuids that it finds in /run/blkid.
		memory("/run", unix.MS_RDONLY),
	)
}

// Broker makes this process the broker: it runs the program again, without any
// capability, as a user of its own, in an empty root that nothing can be written to.
// It ends with its parent.
func Broker(dir string, args []string) error {
	return again(args, nil,
		memory(dir, unix.MS_RDONLY),
		step{"enter " + dir, func() error { return unix.Chdir(dir) }},
		// The old root is stacked on the new one and can be taken off
		// (pivot_root(2), "." twice).
		step{"enter an empty root", func() error { return unix.PivotRoot(".", ".") }},
		step{"leave the system's root", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
	)
}

// memory mounts a filesystem in memory on dir.
func memory(dir string, flags uintptr) step {
	return step{"mount a filesystem in memory on " + dir, func() error {
		return unix.Mount("ossify-loop", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|flags, "mode=0700,size=64k,nr_inodes=16")
	}}
}

// again runs the program again, with an empty environment, after it has taken the
// steps in a mount namespace of its own and dropped all capabilities but those of
// keep, and with them, if there are none, root. It returns only if that fails.
//
// Unmounting on the machine does unmount in the namespace, or a disk would be in use
// for as long as the helper runs.
func again(args []string, keep []int, steps ...step) error {
	runtime.LockOSThread()
	program, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	argv, argvErr := syscall.SlicePtrFromStrings(args)
	if err = cmp.Or(err, argvErr); err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	all := append([]step{
		{"make namespaces", func() error {
			return unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
		}},
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") }},
	}, steps...)
	all = append(all, step{"drop capabilities", func() error { return drop(keep) }})
	if keep == nil {
		all = append(all,
			step{"leave all groups", func() error { return syscall.Setgroups(nil) }},
			step{"become the broker's group", func() error { return syscall.Setresgid(BrokerID, BrokerID, BrokerID) }},
			step{"become the broker's user", func() error { return syscall.Setresuid(BrokerID, BrokerID, BrokerID) }},
			step{"end with the mounter", func() error { return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0) }},
		)
	}
	for _, s := range all {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	empty, none := [1]byte{}, [1]*byte{}
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(program), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&none[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("run this program again: %w", errno)
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
			return err
		}
	}
	var sets [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	err := unix.Capget(&header, &sets[0])
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	return cmp.Or(err,
		unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0),
		unix.Capset(&header, &sets[0]),
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}
