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

// Capabilities are all that the mounter can ever have. SYS_ADMIN is for mounts, loop devices and
// security.selinux, SETUID and SETGID for id maps and mkfs, CHOWN for giving the file to mkfs.
// SETFCAP is for LABEL, and so are four without which it could not enter the directories of other
// owners, set flags of their files, immutable ones too, and store labels that the running policy
// does not know. KILL is for the kernel, who ends mkfs and the broker, other users' processes,
// with their parent.
func Capabilities() []int {
	return []int{unix.CAP_SYS_ADMIN, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN, unix.CAP_SETFCAP,
		unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_LINUX_IMMUTABLE, unix.CAP_MAC_ADMIN, unix.CAP_KILL}
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
		l.Cur, l.Max = min(l.Max, size), min(l.Max, size)
		if err = errors.Join(err, unix.Setrlimit(limit, &l)); err != nil {
			return fmt.Errorf("set limit %d of this process: %w", limit, err)
		}
	}
	return wire.In("close descriptors", unix.CloseRange(3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC))
}

// Mounter makes this process the mounter: it runs the program again, as root with
// the mounter's capabilities, in its own mount namespace, where everything is
// read-only but an empty filesystem in memory on dir, the working directory, and /proc,
// to which id maps are written, and which has processes only.
func Mounter(dir string, args []string) error {
	return again(args,
		step{"make the mounter's view of the system read-only", func() error {
			return unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		}},
		step{"mount /proc", func() error { return unix.Mount("proc", "/proc", "proc", quiet, "subset=pid") }},
		memory(dir, 0),
		step{"enter " + dir, func() error { return unix.Chdir(dir) }},
		step{"make a place to mount", func() error { return unix.Mkdir("mnt", 0o700) }},
		// What the machine's other disks are is none of mkfs' business: mkfs.btrfs refuses
		// uuids that it finds in /run/blkid.
		memory("/run", unix.MS_RDONLY),
		step{"drop capabilities", func() error { return drop(Capabilities()) }},
	)
}

// Broker makes this process the broker: it runs the program again, without any
// capability, as a user of its own, in an empty root that nothing can be written to.
// It ends with its parent.
func Broker(dir string, args []string) error {
	return again(args,
		memory(dir, unix.MS_RDONLY),
		step{"enter " + dir, func() error { return unix.Chdir(dir) }},
		// The old root is stacked on the new one and can be taken off
		// (pivot_root(2), "." twice).
		step{"enter an empty root", func() error { return unix.PivotRoot(".", ".") }},
		step{"leave the system's root", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		step{"drop capabilities", func() error { return drop(nil) }},
		step{"become the broker's user", func() error {
			return cmp.Or(syscall.Setgroups(nil), syscall.Setresgid(BrokerID, BrokerID, BrokerID), syscall.Setresuid(BrokerID, BrokerID, BrokerID))
		}},
		step{"end with the mounter", func() error { return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0) }},
	)
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// memory mounts a filesystem in memory on dir.
func memory(dir string, flags uintptr) step {
	return step{"mount a filesystem in memory on " + dir, func() error {
		return unix.Mount("ossify-loop", dir, "tmpfs", quiet|flags, "mode=0700,size=64k,nr_inodes=16")
	}}
}

// again runs the program again, with an empty environment, after it has taken the
// steps in namespaces of its own. It returns only if that fails.
//
// Unmounting on the machine does unmount in the mount namespace, or a disk would be in use
// for as long as the helper runs.
func again(args []string, steps ...step) error {
	runtime.LockOSThread()
	program, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	argv, argvErr := syscall.SlicePtrFromStrings(args)
	if err = cmp.Or(err, argvErr); err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	for _, s := range append([]step{
		{"make namespaces", func() error { return unix.Unshare(namespaces) }},
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") }},
	}, steps...) {
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
	for c := range 64 {
		if !slices.Contains(keep, c) {
			// EINVAL: there are not so many.
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
				return err
			}
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

// A filter decides about a system call by its number and, for some, by the lower
// half of one argument. No argument that is looked at is a pointer, and the kernel
// takes no more of it than that half.

// Filter is what becomes of system calls.
type Filter struct {
	// calls have the result, a SECCOMP_RET_ value. All others but those of rules have
	// otherwise.
	calls             []uint32
	result, otherwise uint32
	rules             []rule
}

// rule allows a call if an argument is one of the values.
type rule struct {
	number   uint32
	argument int
	values   []uint32
	errno    unix.Errno // for other values
}

// deny is the result of calls that fail.
const deny = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)

// architecture is the kernel's name for this program's: another one's calls have other numbers.
var architecture = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]

// foreign is the bit that marks calls of the x32 ABI; others have no such numbers.
const foreign = 0x40000000

// program compiles the filter to a straight line, so that it can be read as the lists are.
func (f Filter) program() []unix.SockFilter {
	const load, result, jump = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_RET | unix.BPF_K, unix.BPF_JMP | unix.BPF_K
	const equal, atLeast = jump | unix.BPF_JEQ, jump | unix.BPF_JGE
	// struct seccomp_data: nr u32, arch u32, instruction pointer u64, args [6]u64.
	p := []unix.SockFilter{
		{Code: load, K: 4},
		{Code: equal, Jt: 1, K: architecture},
		{Code: result, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: load, K: 0},
		{Code: atLeast, Jf: 1, K: foreign},
		{Code: result, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
	}
	for _, r := range f.rules {
		n := uint8(len(r.values))
		p = append(p, unix.SockFilter{Code: equal, Jf: n + 3, K: r.number}, unix.SockFilter{Code: load, K: uint32(16 + 8*r.argument)})
		for i, v := range r.values {
			p = append(p, unix.SockFilter{Code: equal, Jt: n - uint8(i), K: v})
		}
		p = append(p, unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ERRNO | uint32(r.errno)}, unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ALLOW})
	}
	for _, number := range f.calls {
		p = append(p, unix.SockFilter{Code: equal, Jf: 1, K: number}, unix.SockFilter{Code: result, K: f.result})
	}
	return append(p, unix.SockFilter{Code: result, K: f.otherwise})
}

// Install puts all threads of this process under the filter, and all programs that
// it will run.
func (f Filter) Install() error {
	p := f.program()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 || thread != 0 {
		return fmt.Errorf("install a seccomp filter for all threads (%d does not take it): %w; the kernel needs CONFIG_SECCOMP_FILTER", thread, errno)
	}
	return nil
}

// MounterFilter is that of the mounter and of the mkfs programs. It denies calls that no
// filesystem needs to be made or mounted: with them, root in a program that was taken over
// would be root of the machine.
func MounterFilter() Filter {
	return Filter{otherwise: unix.SECCOMP_RET_ALLOW, result: deny, rules: []rule{
		{number: unix.SYS_IOCTL, argument: 1, errno: unix.ENOTTY, values: []uint32{
			unix.LOOP_CTL_GET_FREE, unix.LOOP_CONFIGURE, unix.FS_IOC_GETFLAGS, unix.FS_IOC_SETFLAGS,
			unix.BLKGETSIZE64, unix.BLKSSZGET, unix.BLKPBSZGET, unix.BLKBSZGET,
		}},
		{number: unix.SYS_SOCKET, errno: unix.EAFNOSUPPORT, values: []uint32{unix.AF_UNIX}},
		{number: unix.SYS_SOCKETPAIR, errno: unix.EAFNOSUPPORT, values: []uint32{unix.AF_UNIX}},
	}, calls: []uint32{
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD, unix.SYS_BPF,
		unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
		unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
		unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
		unix.SYS_FANOTIFY_INIT, unix.SYS_MKNODAT, unix.SYS_MOUNT, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS,
		unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SYSLOG, unix.SYS_PERSONALITY,
	}}
}

// BrokerFilter is the broker's, who can neither run a program nor open a file. It allows what
// Go's runtime needs, and messages on sockets that exist.
func BrokerFilter() Filter {
	const thread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD
	return Filter{otherwise: deny, result: unix.SECCOMP_RET_ALLOW, rules: []rule{
		{number: unix.SYS_CLONE, errno: unix.EPERM, values: []uint32{thread, thread | unix.CLONE_SETTLS}},
		{number: unix.SYS_SOCKETPAIR, errno: unix.EAFNOSUPPORT, values: []uint32{unix.AF_UNIX}},
	}, calls: []uint32{
		unix.SYS_ACCEPT4, unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,
		unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_SHUTDOWN, unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_FCNTL,
		unix.SYS_FSTAT, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
		unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_BRK, unix.SYS_MINCORE, unix.SYS_FUTEX,
		unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
		unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
		unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL, unix.SYS_GETRANDOM, unix.SYS_PRCTL, unix.SYS_GETRLIMIT, unix.SYS_PRLIMIT64,
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	}}
}
