package seccomp

import (
	"fmt"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// table is the profile for one of the kernel's system call tables.
type table struct {
	// architecture is the AUDIT_ARCH of its callers (seccomp(2)).
	architecture uint32
	rules        []rule
	allowed      []span
	refused      []call
}

// rule is for a call of which an argument decides.
type rule struct {
	nr       uint32
	name     string
	argument int
	// values of the argument's lower half are refused, or are all that is not.
	values []uint32
	refuse bool
}

// span are the numbers of calls from the first to the last.
type span struct{ first, last uint32 }

// call is a call that the engine is to be told of.
type call struct {
	nr   uint32
	name string
}

// Where a filter finds what it decides about, in bytes (struct seccomp_data, seccomp(2)).
const (
	atNumber       = 0
	atArchitecture = 4
	atArguments    = 16
)

// What a filter returns.
const (
	allow = unix.SECCOMP_RET_ALLOW
	tell  = unix.SECCOMP_RET_USER_NOTIF
	// refuse is for where nobody can be told.
	refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	// unknown is for calls that are newer than the profile: programs then do without.
	unknown = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// filter is the program of all tables, with what becomes of refused calls. Every jump in it but those over a whole table is short.
func filter(refuse uint32) []unix.SockFilter {
	program := []unix.SockFilter{take(atArchitecture)}
	for _, t := range tables {
		part := t.filter(refuse)
		program = append(program,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: t.architecture, Jt: 1},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(part))},
		)
		program = append(program, part...)
	}
	return append(program, result(unknown))
}

func (t *table) filter(refuse uint32) []unix.SockFilter {
	program := []unix.SockFilter{take(atNumber)}
	for _, r := range t.rules {
		match, other := uint32(allow), refuse
		if r.refuse {
			match, other = other, match
		}
		part := []unix.SockFilter{take(atArguments + 8*uint32(r.argument) + lowerHalf)}
		for i, value := range r.values {
			// To the last instruction.
			part = append(part, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: uint8(len(r.values) - i)})
		}
		part = append(part, result(other), result(match))
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: r.nr, Jf: uint8(len(part))})
		program = append(program, part...)
	}
	for _, s := range t.allowed {
		program = append(program,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: s.first, Jf: 2},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: s.last, Jt: 1},
			result(allow),
		)
	}
	for _, c := range t.refused {
		program = append(program,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: c.nr, Jf: 1},
			result(refuse),
		)
	}
	return append(program, result(unknown))
}

// lowerHalf is where the lower half of an argument is on the machines that there are tables for,
// which are all of little endian.
const lowerHalf = 0

func take(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
}

func result(r uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: r}
}

// nameOf is the name of a refused call.
func nameOf(architecture, nr uint32) string {
	for _, t := range tables {
		if t.architecture != architecture {
			continue
		}
		for _, r := range t.rules {
			if r.nr == nr {
				return r.name
			}
		}
		if i := slices.IndexFunc(t.refused, func(c call) bool { return c.nr == nr }); i >= 0 {
			return t.refused[i].name
		}
	}
	return fmt.Sprintf("system call %d", nr)
}

// Load puts the profile on the calling thread and on what it executes from now on; the caller has
// locked the goroutine to it, and has set no_new_privs or is root of its user namespace. listener
// is for Watch, in another process; as long as nobody watches, refused calls wait. It is -1 where
// somebody else is told of system calls already, as some container managers are (seccomp_unotify(2)):
// then they fail at once.
func Load() (listener int, err error) {
	fd, errno := load(filter(tell), unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	if errno == unix.EBUSY {
		return -1, Refuse()
	}
	if errno != 0 {
		return -1, fmt.Errorf("load the system-call filter: %w", errno)
	}
	return fd, nil
}

// Refuse is Load without anybody who is told: calls are refused by the kernel.
func Refuse() error {
	if _, errno := load(filter(refuse), 0); errno != 0 {
		return fmt.Errorf("load the system-call filter: %w", errno)
	}
	return nil
}

func load(program []unix.SockFilter, flags uintptr) (fd int, errno syscall.Errno) {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	return int(r), errno
}
