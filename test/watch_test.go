package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A watcher sees the system calls that a program and all its descendants make, and lets
// one of them go wrong. Unlike strace, which counts for each thread, it counts those of all
// processes together, and it works where programs are traced already:
//
//	test
//	  | ossify unshare: who installs a filter without no_new_privs, under which
//	  |   |             newuidmap would not work, needs CAP_SYS_ADMIN
//	  |   | the watcher: gets each call, answers "go on" or with what shall go wrong
//	  |   |   | installs the filter (seccomp_unotify(2)), gives the watcher its
//	  |   |   | descriptor and becomes ossify

// watched are the system calls that can be watched, by their names.
var watched = map[string]uint32{
	"copy_file_range": unix.SYS_COPY_FILE_RANGE, "fallocate": unix.SYS_FALLOCATE, "fchmodat": unix.SYS_FCHMODAT,
	"fchown": unix.SYS_FCHOWN, "fchownat": unix.SYS_FCHOWNAT, "fcntl": unix.SYS_FCNTL, "fdatasync": unix.SYS_FDATASYNC,
	"flock": unix.SYS_FLOCK, "fsconfig": unix.SYS_FSCONFIG, "fsmount": unix.SYS_FSMOUNT, "fsopen": unix.SYS_FSOPEN,
	"fsync": unix.SYS_FSYNC, "ftruncate": unix.SYS_FTRUNCATE, "getdents64": unix.SYS_GETDENTS64, "linkat": unix.SYS_LINKAT,
	"lsetxattr": unix.SYS_LSETXATTR, "mkdirat": unix.SYS_MKDIRAT, "mount": unix.SYS_MOUNT, "move_mount": unix.SYS_MOVE_MOUNT,
	"open_tree": unix.SYS_OPEN_TREE, "openat": unix.SYS_OPENAT, "pwrite64": unix.SYS_PWRITE64, "renameat": unix.SYS_RENAMEAT,
	"renameat2": unix.SYS_RENAMEAT2, "setxattr": unix.SYS_SETXATTR, "symlinkat": unix.SYS_SYMLINKAT, "syncfs": unix.SYS_SYNCFS,
	"umount2": unix.SYS_UMOUNT2, "unlinkat": unix.SYS_UNLINKAT, "unshare": unix.SYS_UNSHARE, "utimensat": unix.SYS_UTIMENSAT,
	"write": unix.SYS_WRITE,
}

// written are those calls that count only on files: the Go runtime cannot live with an
// error when it wakes a thread.
var written = []string{"write", "fcntl"}

// fault says which calls are counted, and what becomes of one of them.
type fault struct {
	// Calls are names of watched ones.
	Calls []string
	// Call is the one that goes wrong when it is made for the N-th time, 0 for never.
	Call string
	N    int
	// Errno is what it then returns; 0 lets its process be killed before it is made.
	Errno syscall.Errno
}

func (f fault) String() string {
	if f.Errno != 0 {
		return fmt.Sprintf("%s %d %s", f.Call, f.N, unix.ErrnoName(f.Errno))
	}
	return fmt.Sprintf("kill at %s %d", f.Call, f.N)
}

// seen is what a watcher has seen.
type seen struct {
	Counts map[string]int
	// Hit is the process that the fault has met, as ps(1) shows it, "" for none.
	Hit string
	// First says that it was the program itself, not a descendant.
	First bool
}

const (
	watcherName = "watch-calls"
	watchedName = "watched-calls"
	// watcherFailed is the exit status of a watcher that did not do its work.
	watcherFailed = 99
)

// becomeWatcher runs this program as a watcher, or what becomes the watched program, if it
// was started as one; the arguments are the fault, the file for what was seen and the
// command.
func becomeWatcher() {
	if len(os.Args) < 5 {
		return
	}
	var err error
	switch os.Args[1] {
	case watcherName:
		err = watch(os.Args[2], os.Args[3], os.Args[4:])
	case watchedName:
		err = beWatched(os.Args[2], os.Args[4:])
	default:
		return
	}
	fmt.Fprintln(os.Stderr, "the watcher has failed:", err)
	os.Exit(watcherFailed)
}

// beWatched puts this thread under the filter and becomes the program.
func beWatched(text string, command []string) error {
	var f fault
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return err
	}
	const load, result, equal = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_RET | unix.BPF_K, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	p := []unix.SockFilter{{Code: load, K: 0}} // the number in struct seccomp_data
	for _, call := range f.Calls {
		p = append(p, unix.SockFilter{Code: equal, Jf: 1, K: watched[call]}, unix.SockFilter{Code: result, K: unix.SECCOMP_RET_USER_NOTIF})
	}
	p = append(p, unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ALLOW})
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	unix.CloseOnExec(3)
	// A signal of the Go runtime shall not begin a call that was seen again.
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("install a filter: %w", errno)
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(listener)), nil, 0); err != nil {
		return err
	}
	return unix.Exec(command[0], command, os.Environ())
}

// notification and response are struct seccomp_notif and struct seccomp_notif_resp.
type notification struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// watch runs the command and does not return if all goes well: it exits as the command,
// when that and all its descendants are gone.
func watch(text, report string, command []string) error {
	var f fault
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	cmd := exec.Command("/proc/self/exe", append([]string{watchedName, text, report}, command...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdin, os.Stdout, os.Stderr, []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		return err
	}
	theirs.Close()
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("no filter: %w", errors.Join(err, cmd.Wait()))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	var over atomic.Int64 // when the command has ended
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		over.Store(time.Now().UnixNano())
		ended <- err
	}()
	s := seen{Counts: map[string]int{}}
	for {
		ready := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, 1000); err != nil && err != unix.EINTR {
			return err
		}
		if end := over.Load(); end != 0 && time.Since(time.Unix(0, end)) > 20*time.Second {
			return errors.New("the program has ended, but not what it has started")
		}
		if ready[0].Revents&unix.POLLIN != 0 {
			if err := s.answer(fds[0], &f, cmd.Process.Pid); err != nil {
				return err
			}
		} else if ready[0].Revents&unix.POLLHUP != 0 {
			break // nobody is under the filter any more
		}
	}
	err = <-ended
	data, jsonErr := json.Marshal(s)
	if jsonErr != nil {
		return jsonErr
	}
	if err := os.WriteFile(report, data, 0o644); err != nil {
		return err
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			os.Exit(128 + int(ws.Signal()))
		}
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

// answer lets a call that waits go on, or go wrong.
func (s *seen) answer(listener int, f *fault, first int) error {
	var n notification
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err == unix.ENOENT || err == unix.EINTR {
		return nil // it was killed meanwhile
	} else if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	var call string
	for name, number := range watched {
		if number == uint32(n.number) {
			call = name
		}
	}
	if !slices.Contains(written, call) || onFile(&n) {
		s.Counts[call]++
		if call == f.Call && s.Counts[call] == f.N {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.pid))
			s.Hit = fmt.Sprintf("%d %s", n.pid, strings.ReplaceAll(string(line), "\x00", " "))
			s.First = threadOf(first, int(n.pid))
			r = response{id: n.id, errno: -int32(f.Errno)}
			if f.Errno == 0 {
				r.errno = -int32(unix.EINTR) // nobody sees it
				if err := unix.Kill(int(n.pid), unix.SIGKILL); err != nil {
					return fmt.Errorf("kill: %w", err)
				}
			}
		}
	}
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); err != nil && err != unix.ENOENT {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// onFile says whether the first argument is a descriptor of a file on a disk.
func onFile(n *notification) bool {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, n.args[0]))
	return err == nil && strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/memfd:")
}

func threadOf(process, thread int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", process, thread))
	return err == nil
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// watchedCommand runs a script in ossify's user namespace, in which "$@" is the program,
// watched.
func watchedCommand(t *testing.T, f fault, report, script string, command ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(program(t), append([]string{"unshare", "sh", "-c", script, "sh", exe, watcherName, string(text), report}, command...)...)
}
