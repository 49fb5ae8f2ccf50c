package dpkg

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// auditArch is the kernel's number of the architectures that Debian and Go
// have in common and whose system calls Go numbers.
var auditArch = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64, "386": unix.AUDIT_ARCH_I386,
	"arm": unix.AUDIT_ARCH_ARM, "ppc64le": unix.AUDIT_ARCH_PPC64LE, "s390x": unix.AUDIT_ARCH_S390X,
	"riscv64": unix.AUDIT_ARCH_RISCV64, "mips64le": unix.AUDIT_ARCH_MIPSEL64,
}

// ignoreSync makes fsync and its kin succeed without doing anything, in this
// thread and all processes it starts: a tree that is not finished is thrown
// away after a crash, and dpkg syncs after every step. The kernel may refuse a
// filter; then the syncs stay.
func ignoreSync() error {
	arch, ok := auditArch[runtime.GOARCH]
	if !ok {
		return nil
	}
	calls := []uint32{unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC, unix.SYS_SYNCFS, unix.SYS_MSYNC}
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: load, K: 4}, // seccomp_data.arch
		{Code: equal, Jt: 0, Jf: uint8(len(calls) + 1), K: arch},
		{Code: load, K: 0}, // seccomp_data.nr
	}
	for i, nr := range calls {
		filter = append(filter, unix.SockFilter{Code: equal, Jt: uint8(len(calls) - i), K: nr})
	}
	filter = append(filter,
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO}) // error 0
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	switch errno {
	case 0, unix.EACCES, unix.EPERM, unix.ENOSYS, unix.EINVAL:
		return nil
	}
	return fmt.Errorf("install system call filter: %w", errno)
}
