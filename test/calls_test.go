package test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refusedCalls are what no stage may do (attempt 10), with arguments that the kernel would take.
var refusedCalls = []struct {
	name string
	nr   uintptr
	args [5]uintptr
}{
	{"socket", unix.SYS_SOCKET, [5]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET}},
	{"socket", unix.SYS_SOCKET, [5]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}},
	{"bpf", unix.SYS_BPF, [5]uintptr{}},
	{"userfaultfd", unix.SYS_USERFAULTFD, [5]uintptr{1}},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, [5]uintptr{1, buffer}},
	{"io_uring_enter", unix.SYS_IO_URING_ENTER, [5]uintptr{0}},
	{"io_uring_register", unix.SYS_IO_URING_REGISTER, [5]uintptr{0}},
	{"keyctl", unix.SYS_KEYCTL, [5]uintptr{unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2)}},
	{"add_key", unix.SYS_ADD_KEY, [5]uintptr{buffer, buffer, buffer, 1, ^uintptr(2)}},
	{"request_key", unix.SYS_REQUEST_KEY, [5]uintptr{buffer, buffer, 0, 0}},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [5]uintptr{0, buffer, 0}},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [5]uintptr{buffer, 0, ^uintptr(0), ^uintptr(0), 0}},
	{"kexec_load", unix.SYS_KEXEC_LOAD, [5]uintptr{0, 0, 0, 0}},
	{"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, [5]uintptr{0, 0, 0, 0, 0}},
	{"init_module", unix.SYS_INIT_MODULE, [5]uintptr{buffer, 1, buffer}},
	{"finit_module", unix.SYS_FINIT_MODULE, [5]uintptr{0, buffer, 0}},
	{"delete_module", unix.SYS_DELETE_MODULE, [5]uintptr{buffer, 0}},
	{"ioctl", unix.SYS_IOCTL, [5]uintptr{0, unix.TIOCSTI, buffer}},
	{"ioctl", unix.SYS_IOCTL, [5]uintptr{0, unix.TIOCSTI | 1<<32, buffer}}, // the kernel takes the lower half
	{"ioctl", unix.SYS_IOCTL, [5]uintptr{0, unix.TIOCLINUX, buffer}},
	{"clock_settime", unix.SYS_CLOCK_SETTIME, [5]uintptr{unix.CLOCK_REALTIME, buffer}},
	{"settimeofday", unix.SYS_SETTIMEOFDAY, [5]uintptr{buffer, 0}},
	{"acct", unix.SYS_ACCT, [5]uintptr{0}},
	{"swapon", unix.SYS_SWAPON, [5]uintptr{buffer, 0}},
	{"swapoff", unix.SYS_SWAPOFF, [5]uintptr{buffer}},
	{"syslog", unix.SYS_SYSLOG, [5]uintptr{3, buffer, 16}},
	{"quotactl", unix.SYS_QUOTACTL, [5]uintptr{0, buffer, 0, buffer}},
	{"lookup_dcookie", unix.SYS_LOOKUP_DCOOKIE, [5]uintptr{0, buffer, 16}},
	{"personality", unix.SYS_PERSONALITY, [5]uintptr{0x40000}},
}

// buffer stands for the address of some memory.
const buffer = 0xb0ffe2

// makeCalls makes all of them, and says what was not refused.
func makeCalls(where string) (made int) {
	var memory [4096]byte
	for _, c := range refusedCalls {
		for i := range c.args {
			if c.args[i] == buffer {
				c.args[i] = uintptr(unsafe.Pointer(&memory))
			}
		}
		r, _, errno := unix.Syscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
		if errno != unix.EPERM {
			fmt.Printf("%s: %s%v was not refused: %d, %v\n", where, c.name, c.args, r, errno)
		}
		made++
	}
	runtime.KeepAlive(&memory)
	// What has no filter of its own: entropy that the kernel would count.
	if random, err := os.OpenFile("/dev/random", os.O_RDWR, 0); err == nil {
		for _, request := range []uintptr{0x40045201 /* RNDADDTOENTCNT */, 0x5206 /* RNDCLEARPOOL */} {
			n := 8
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, random.Fd(), request, uintptr(unsafe.Pointer(&n))); errno != unix.EPERM {
				fmt.Printf("%s: ioctl %#x of /dev/random was not refused: %v\n", where, request, errno)
			}
			made++
		}
	}
	return made
}

// callsStage is the stage org.hostile.calls: once as it is, and again where it has each capability
// and each namespace.
func callsStage() {
	if len(os.Args) > 1 && os.Args[1] == "again" {
		fmt.Printf("nested: %d calls\n", makeCalls("nested"))
		os.Exit(0)
	}
	status := must(os.ReadFile("/proc/self/status"))
	for _, line := range []string{"\nNoNewPrivs:\t1\n", "\nSeccomp:\t2\n"} {
		if !strings.Contains(string(status), line) {
			fmt.Printf("/proc/self/status does not have %q\n", line)
		}
	}
	fmt.Printf("stage: %d calls\n", makeCalls("stage"))
	cmd := exec.Command("/proc/self/exe", "again")
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
	must(0, cmd.Run())
	os.Exit(1)
}

// TestRefusedCalls sees that no stage can make these calls, and that people are told of them.
func TestRefusedCalls(t *testing.T) {
	h := newHostileLib(t)
	o := h.run(h.manifest("stage", "calls"), nil)
	h.expect(o, 1, fmt.Sprintf("stage: %d calls\n", len(refusedCalls)+2), fmt.Sprintf("nested: %d calls\n", len(refusedCalls)+2),
		`pipeline "tree": stage 1 (org.hostile.calls) failed: exit status 1; it called socket(2), bpf(2), userfaultfd(2), io_uring_setup(2), io_uring_enter(2) and io_uring_register(2) by org.hostile.cal, and 20 more, which stages may not`)
	if strings.Contains(o.stderr, "not refused") || strings.Contains(o.stderr, "does not have") {
		t.Errorf("%s", o.stderr)
	}
}
