package seccomp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Refused is a system call that was not allowed.
type Refused struct {
	// Call is its name as in syscalls(2), Program what made it first, as in /proc/PID/comm.
	Call, Program string
}

// listed is how many calls List names.
const listed = 6

// List is the calls in words, program by program: "bpf(2) by perf, keyctl(2) and add_key(2) by keyctl".
func List(refused []Refused) string {
	var programs []string
	calls := map[string][]string{}
	for i, r := range refused {
		if calls[r.Program] == nil {
			programs = append(programs, r.Program)
		}
		if i < listed {
			calls[r.Program] = append(calls[r.Program], r.Call+"(2)")
		}
	}
	var parts []string
	for _, program := range programs {
		names := calls[program]
		if n := len(names); n > 1 {
			names = append(names[:n-2], names[n-2]+" and "+names[n-1])
		}
		text := strings.Join(names, ", ")
		if program != "" && text != "" {
			text += " by " + program
		}
		if text != "" {
			parts = append(parts, text)
		}
	}
	if more := len(refused) - listed; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, ", ")
}

// Watcher refuses the calls that a filter asks about.
type Watcher struct {
	listener *os.File
	done     chan struct{}

	mu      sync.Mutex
	refused []Refused
}

// notification is struct seccomp_notif, answer is struct seccomp_notif_resp (seccomp_unotify(2)).
type notification struct {
	id         uint64
	pid, flags uint32
	nr         uint32
	arch       uint32
	_          uint64
	_          [6]uint64
}

type answer struct {
	id    uint64
	_     int64
	err   int32
	flags uint32
}

// Watch answers the listener of a filter until Close; it then owns the descriptor.
func Watch(listener int) (*Watcher, error) {
	if err := unix.SetNonblock(listener, true); err != nil {
		unix.Close(listener)
		return nil, fmt.Errorf("watch system calls: %w", err)
	}
	w := &Watcher{listener: os.NewFile(uintptr(listener), "seccomp"), done: make(chan struct{})}
	raw, err := w.listener.SyscallConn()
	if err != nil {
		w.listener.Close()
		return nil, fmt.Errorf("watch system calls: %w", err)
	}
	go func() {
		defer close(w.done)
		_ = raw.Read(w.answerAll) // ends with Close, or with the last process
	}()
	return w, nil
}

// answerAll answers what there is, and says whether there will be nothing any more.
func (w *Watcher) answerAll(fd uintptr) (done bool) {
	for {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		switch n, err := unix.Poll(ready, 0); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return true
		case n == 0:
			return false
		case ready[0].Revents&unix.POLLIN == 0: // no process has the filter any more
			return true
		}
		var n notification // has to be zero
		if err := ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
			continue // the caller is gone
		}
		w.note(&n)
		_ = ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer{id: n.id, err: -int32(unix.EPERM)}))
	}
}

func ioctl(fd uintptr, request uint, data unsafe.Pointer) error {
	_, _, errno := syscall.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(data))
	if errno != 0 {
		return errno
	}
	return nil
}

// note remembers each call once, so that there are not more than the profile has names.
func (w *Watcher) note(n *notification) {
	name := nameOf(n.arch, n.nr)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.refused {
		if r.Call == name {
			return
		}
	}
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", n.pid)) // nothing, if it has just been killed
	w.refused = append(w.refused, Refused{Call: name, Program: string(bytes.TrimSpace(comm))})
}

// Refused are the calls that were refused until now, in their order; of no watcher none are known.
func (w *Watcher) Refused() []Refused {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Refused(nil), w.refused...)
}

// Close ends the watching. Calls that are refused afterwards fail with ENOSYS.
func (w *Watcher) Close() error {
	if w == nil {
		return nil
	}
	err := w.listener.Close()
	<-w.done
	return err
}
