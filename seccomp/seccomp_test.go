package seccomp

import (
	"bytes"
	"encoding/binary"
	"os"
	"runtime"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/ossify/ossify/seccomp/internal/profile"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// TestTables sees that the tables are those of the profile as it is now.
func TestTables(t *testing.T) {
	for _, goarch := range []string{"amd64", "arm64"} {
		want, err := profile.Generate(goarch)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile("tables_" + goarch + ".go")
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("tables_%s.go is not what go generate makes (%v)", goarch, err)
		}
	}
}

func TestFilter(t *testing.T) {
	native, compat := arch.X86_64, arch.I386
	if runtime.GOARCH == "arm64" {
		native, compat = arch.AARCH64, arch.ARM
	}
	var raw []bpf.Instruction
	for _, f := range filter(tell) {
		raw = append(raw, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble())
	}
	vm, err := bpf.NewVM(raw)
	if err != nil {
		t.Fatal(err)
	}
	run := func(architecture, nr uint32, args ...uint32) uint32 {
		data := make([]byte, 64) // what the machine loads is in network order
		binary.BigEndian.PutUint32(data[atNumber:], nr)
		binary.BigEndian.PutUint32(data[atArchitecture:], architecture)
		for i, arg := range args {
			binary.BigEndian.PutUint32(data[atArguments+8*i+lowerHalf:], arg)
			binary.BigEndian.PutUint32(data[atArguments+8*i+4-lowerHalf:], 0xdeadbeef) // the kernel does not look at it
		}
		got, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(got)
	}
	for _, info := range []*arch.Info{native, compat} {
		for _, c := range []struct {
			name string
			args []uint32
			want uint32
		}{
			{"read", nil, allow},
			{"execve", nil, allow},
			{"mount", nil, allow},
			{"unshare", nil, allow},
			{"clone", []uint32{unix.CLONE_NEWUSER}, allow},
			{"clone3", nil, allow},
			{"setns", nil, allow},
			{"chroot", nil, allow},
			{"sethostname", nil, allow},
			{"mknodat", nil, allow},
			{"landlock_restrict_self", nil, allow},
			{"ioctl", []uint32{0, 0x5401}, allow},
			{"ioctl", []uint32{0, unix.TIOCSTI}, tell},
			{"ioctl", []uint32{0, unix.TIOCLINUX}, tell},
			{"socket", []uint32{unix.AF_UNIX}, allow},
			{"socket", []uint32{unix.AF_INET6}, allow},
			{"socket", []uint32{unix.AF_NETLINK}, allow},
			{"socket", []uint32{unix.AF_ALG}, tell},
			{"socket", []uint32{unix.AF_VSOCK}, tell},
			{"personality", []uint32{0}, allow},
			{"personality", []uint32{0x8}, allow},
			{"personality", []uint32{0xffffffff}, allow},
			{"personality", []uint32{0x40000}, tell},
			{"bpf", nil, tell},
			{"io_uring_setup", nil, tell},
			{"io_uring_enter", nil, tell},
			{"userfaultfd", nil, tell},
			{"perf_event_open", nil, tell},
			{"open_by_handle_at", nil, tell},
			{"keyctl", nil, tell},
			{"add_key", nil, tell},
			{"request_key", nil, tell},
			{"kexec_load", nil, tell},
			{"init_module", nil, tell},
			{"finit_module", nil, tell},
			{"delete_module", nil, tell},
			{"clock_settime", nil, tell},
			{"settimeofday", nil, tell},
			{"syslog", nil, tell},
			{"acct", nil, tell},
			{"swapon", nil, tell},
			{"quotactl", nil, tell},
			{"socketcall", nil, tell},
			{"statmount", nil, unknown}, // newer than the profile
		} {
			nr, ok := info.SyscallNames[c.name]
			if !ok {
				if c.name != "socketcall" && !(info == arch.ARM && c.name == "kexec_file_load") {
					t.Errorf("%s has no %s", info.Name, c.name)
				}
				continue
			}
			if got := run(uint32(info.ID), uint32(nr), c.args...); got != c.want {
				t.Errorf("%s, %s %v: %#x, want %#x", info.Name, c.name, c.args, got, c.want)
			}
			if c.want == tell {
				if got := nameOf(uint32(info.ID), uint32(nr)); got != c.name {
					t.Errorf("%s, call %d is named %q, want %q", info.Name, nr, got, c.name)
				}
			}
		}
	}
	if got := run(uint32(native.ID), 0x40000000); runtime.GOARCH == "amd64" && got != unknown { // x32's read
		t.Errorf("x32: %#x", got)
	}
	if got := run(uint32(arch.X32.ID)^0x1234, 0); got != unknown {
		t.Errorf("another architecture: %#x", got)
	}
	if got := run(uint32(native.ID), 99999); got != unknown {
		t.Errorf("a call of the future: %#x", got)
	}
}

func TestList(t *testing.T) {
	for want, refused := range map[string][]Refused{
		"":               nil,
		"bpf(2)":         {{"bpf", ""}},
		"bpf(2) by perf": {{"bpf", "perf"}},
		"a(2) and b(2)":  {{"a", ""}, {"b", ""}},
		"bpf(2), a(2) and c(2) by x y, b(2) by z":                {{"bpf", ""}, {"a", "x y"}, {"b", "z"}, {"c", "x y"}},
		"a(2), b(2), c(2), d(2), e(2) and f(2) by x, and 2 more": {{"a", "x"}, {"b", "x"}, {"c", "x"}, {"d", "x"}, {"e", "x"}, {"f", "x"}, {"g", "x"}, {"h", "y"}},
	} {
		if got := List(refused); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
