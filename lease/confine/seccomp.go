package confine

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A filter decides about a system call by its number and, for some, by the lower
// half of one argument. No argument that is looked at is a pointer, and the kernel
// takes no more of it than that half.

// rule is about one system call.
type rule struct {
	number uint32
	// result is SECCOMP_RET_ALLOW, or deny(errno). For a call with values it is
	// for other values.
	result uint32
	// values of the argument are allowed.
	argument int
	values   []uint32
}

func deny(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }

// foreign is the bit that marks calls of the x32 ABI; others have no such numbers.
const foreign = 0x40000000

// program compiles rules; other calls have the result otherwise. It is a straight
// line, so that it can be read as the rules are.
func program(rules []rule, otherwise uint32) []unix.SockFilter {
	const load, equal, atLeast, result = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	// struct seccomp_data: nr u32, arch u32, instruction pointer u64, args [6]u64.
	p := []unix.SockFilter{
		{Code: load, K: 4},
		{Code: equal, Jt: 1, K: architecture},
		{Code: result, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: load, K: 0},
		{Code: atLeast, Jf: 1, K: foreign},
		{Code: result, K: unix.SECCOMP_RET_KILL_PROCESS},
	}
	for _, r := range rules {
		if len(r.values) == 0 {
			p = append(p, unix.SockFilter{Code: equal, Jf: 1, K: r.number}, unix.SockFilter{Code: result, K: r.result})
			continue
		}
		n := uint8(len(r.values))
		p = append(p, unix.SockFilter{Code: equal, Jf: n + 3, K: r.number}, unix.SockFilter{Code: load, K: uint32(16 + 8*r.argument)})
		for i, v := range r.values {
			p = append(p, unix.SockFilter{Code: equal, Jt: n - uint8(i), K: v})
		}
		p = append(p, unix.SockFilter{Code: result, K: r.result}, unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ALLOW})
	}
	return append(p, unix.SockFilter{Code: result, K: otherwise})
}

// install puts all threads of this process under the filter, and all programs that
// it will run.
func install(p []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 || thread != 0 {
		return fmt.Errorf("install a seccomp filter for all threads (%d does not take it): %w; the kernel needs CONFIG_SECCOMP_FILTER", thread, errno)
	}
	return nil
}

// FilterMounter installs the filter of the mounter and of the mkfs programs.
func FilterMounter() error { return install(program(mounterRules(), unix.SECCOMP_RET_ALLOW)) }

// FilterBroker installs the filter of the broker. It can neither run a program nor
// open a file.
func FilterBroker() error { return install(program(brokerRules(), deny(unix.EPERM))) }

// mounterRules are about calls that no filesystem needs to be made or mounted: with
// them, root in a program that was taken over would be root of the machine.
func mounterRules() []rule {
	rules := []rule{
		{number: unix.SYS_IOCTL, result: deny(unix.ENOTTY), argument: 1, values: []uint32{
			unix.LOOP_CTL_GET_FREE, unix.LOOP_CONFIGURE, unix.FS_IOC_GETFLAGS, unix.FS_IOC_SETFLAGS, unix.BLKGETSIZE64, unix.BLKSSZGET, unix.BLKPBSZGET, unix.BLKBSZGET,
		}},
		{number: unix.SYS_SOCKET, result: deny(unix.EAFNOSUPPORT), values: []uint32{unix.AF_UNIX}},
		{number: unix.SYS_SOCKETPAIR, result: deny(unix.EAFNOSUPPORT), values: []uint32{unix.AF_UNIX}},
	}
	return append(rules, all(deny(unix.EPERM), append([]uint32{
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD, unix.SYS_BPF,
		unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
		unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
		unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
		unix.SYS_FANOTIFY_INIT, unix.SYS_MKNODAT, unix.SYS_MOUNT, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS,
		unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SYSLOG, unix.SYS_VHANGUP,
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME,
		unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_PERSONALITY,
	}, oldCalls()...))...)
}

// all are rules with the same result.
func all(result uint32, numbers []uint32) (rules []rule) {
	for _, number := range numbers {
		rules = append(rules, rule{number: number, result: result})
	}
	return rules
}

// brokerRules are what Go's runtime needs, and messages on sockets that exist.
func brokerRules() []rule {
	const thread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD
	return append([]rule{
		{number: unix.SYS_CLONE, result: deny(unix.EPERM), values: []uint32{thread, thread | unix.CLONE_SETTLS}},
		{number: unix.SYS_SOCKETPAIR, result: deny(unix.EAFNOSUPPORT), values: []uint32{unix.AF_UNIX}},
	}, all(unix.SECCOMP_RET_ALLOW, []uint32{
		unix.SYS_ACCEPT4, unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,
		unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_SHUTDOWN, unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_FCNTL,
		unix.SYS_FSTAT, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
		unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_BRK, unix.SYS_MINCORE, unix.SYS_FUTEX,
		unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
		unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
		unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL, unix.SYS_GETRANDOM, unix.SYS_PRCTL, unix.SYS_GETRLIMIT, unix.SYS_PRLIMIT64,
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	})...)
}
