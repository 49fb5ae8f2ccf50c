package confine

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const filterEnv = "OSSIFY_CONFINE_FILTER"

func TestMain(m *testing.M) {
	if name := os.Getenv(filterEnv); name != "" {
		attempt(name)
		return
	}
	os.Exit(m.Run())
}

// attempts are system calls that do nothing if they are let through, and what the
// filters make of them.
var attempts = []struct {
	name            string
	number          uintptr
	args            [3]uintptr
	mounter, broker unix.Errno // 0 for anything else than EPERM
}{
	{"bpf", unix.SYS_BPF, [3]uintptr{99}, unix.EPERM, unix.EPERM},
	{"io_uring", unix.SYS_IO_URING_SETUP, [3]uintptr{0}, unix.EPERM, unix.EPERM},
	{"userfaultfd", unix.SYS_USERFAULTFD, [3]uintptr{99}, unix.EPERM, unix.EPERM},
	{"perf", unix.SYS_PERF_EVENT_OPEN, [3]uintptr{}, unix.EPERM, unix.EPERM},
	{"keyctl", unix.SYS_KEYCTL, [3]uintptr{0}, unix.EPERM, unix.EPERM},
	{"kexec", unix.SYS_KEXEC_LOAD, [3]uintptr{0, 99}, unix.EPERM, unix.EPERM},
	{"module", unix.SYS_FINIT_MODULE, [3]uintptr{^uintptr(0)}, unix.EPERM, unix.EPERM},
	{"handle", unix.SYS_OPEN_BY_HANDLE_AT, [3]uintptr{^uintptr(0)}, unix.EPERM, unix.EPERM},
	{"ptrace", unix.SYS_PTRACE, [3]uintptr{99, 99}, unix.EPERM, unix.EPERM},
	{"mount", unix.SYS_MOUNT, [3]uintptr{}, unix.EPERM, unix.EPERM},
	{"setns", unix.SYS_SETNS, [3]uintptr{^uintptr(0)}, unix.EPERM, unix.EPERM},
	{"AF_INET", unix.SYS_SOCKET, [3]uintptr{unix.AF_INET, unix.SOCK_STREAM}, unix.EAFNOSUPPORT, unix.EPERM},
	{"AF_ALG", unix.SYS_SOCKET, [3]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET}, unix.EAFNOSUPPORT, unix.EPERM},
	{"AF_VSOCK", unix.SYS_SOCKET, [3]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}, unix.EAFNOSUPPORT, unix.EPERM},
	{"TIOCSTI", unix.SYS_IOCTL, [3]uintptr{0, unix.TIOCSTI}, unix.ENOTTY, unix.EPERM},
	{"TCGETS with more bits", unix.SYS_IOCTL, [3]uintptr{^uintptr(0), 1<<32 | unix.TCGETS}, unix.ENOTTY, unix.EPERM},
	{"LOOP_CTL_GET_FREE", unix.SYS_IOCTL, [3]uintptr{^uintptr(0), unix.LOOP_CTL_GET_FREE}, unix.EBADF, unix.EPERM},
	{"the last ioctl", unix.SYS_IOCTL, [3]uintptr{^uintptr(0), unix.BLKBSZGET}, unix.EBADF, unix.EPERM},
	{"fsopen", unix.SYS_FSOPEN, [3]uintptr{0}, unix.EFAULT, unix.EPERM},
	{"openat", unix.SYS_OPENAT, [3]uintptr{0, 0}, unix.EFAULT, unix.EPERM},
	{"execve", unix.SYS_EXECVE, [3]uintptr{0}, unix.EFAULT, unix.EPERM},
	{"fork", unix.SYS_CLONE, [3]uintptr{unix.CLONE_THREAD}, unix.EINVAL, unix.EPERM},
	{"unshare", unix.SYS_UNSHARE, [3]uintptr{1}, unix.EINVAL, unix.EPERM},
	{"setresuid", unix.SYS_SETRESUID, [3]uintptr{^uintptr(0), ^uintptr(0), ^uintptr(0)}, 0, unix.EPERM},
	{"gettid", unix.SYS_GETTID, [3]uintptr{}, 0, 0},
}

// attempt makes them under a filter.
func attempt(name string) {
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil && name == "mounter" {
		err = MounterFilter().Install()
	} else if err == nil {
		err = BrokerFilter().Install()
	}
	fmt.Println("filter", err)
	for _, a := range attempts {
		_, _, errno := unix.Syscall6(a.number, a.args[0], a.args[1], a.args[2], 0, 0, 0)
		fmt.Println(a.name, int(errno))
	}
}

func TestFilters(t *testing.T) {
	for _, name := range []string{"mounter", "broker"} {
		want := "filter <nil>\n"
		for _, a := range attempts {
			errno := a.mounter
			if name == "broker" {
				errno = a.broker
			}
			want += fmt.Sprintln(a.name, int(errno))
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{filterEnv + "=" + name}
		out, err := cmd.Output()
		if err != nil || string(out) != want {
			t.Errorf("%s: %v, got\n%s\nwant\n%s", name, err, out, want)
		}
	}
}

// TestForeignCalls is about calls of other ABIs, which have other numbers.
func TestForeignCalls(t *testing.T) {
	for _, f := range []Filter{MounterFilter(), BrokerFilter()} {
		p := f.program()
		if p[1].K != architecture || p[2].K != unix.SECCOMP_RET_KILL_PROCESS || p[4].K != foreign || p[5].K != unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) {
			t.Errorf("the filter begins with %v", p[:6])
		}
		if len(p) > 256 {
			t.Errorf("the filter has %d instructions", len(p))
		}
	}
	if out := fmt.Sprint(Capabilities()); strings.Count(out, " ") != 9 {
		t.Errorf("the mounter has other capabilities than docs/helper.md says: %s", out)
	}
}
