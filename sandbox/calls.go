package sandbox

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/ossify/ossify/seccomp"
	"golang.org/x/sys/unix"
)

// listenerFD is where the first process of a container finds the socket over which the engine gets
// the listener of its system-call filter: libcontainer's extra files come first.
const listenerFD = 3

// confine takes from this thread what neither namespaces nor capabilities do, before libcontainer
// makes it the stage's program: so the filter lasts from here, and has to allow what libcontainer
// does. The goroutine is locked to the first thread, which is the one that executes the program.
func confine() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	// Keys of whoever started the engine are none of the stage's business.
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("make a session keyring: %w", err)
	}
	if err := scope(); err != nil {
		return err
	}
	listener, err := seccomp.Load()
	if err != nil {
		return err
	}
	var rights []byte
	if listener >= 0 {
		defer unix.Close(listener)
		rights = unix.UnixRights(listener)
	}
	if err := unix.Sendmsg(listenerFD, []byte{0}, rights, nil, 0); err != nil {
		return fmt.Errorf("send the listener of the system-call filter: %w", err)
	}
	return unix.Close(listenerFD)
}

// scope keeps signals and abstract sockets inside, from Linux 6.12 on (landlock(7)); with a network
// of the host's the abstract sockets are there. Landlock's rules for files would forbid every mount.
func scope() error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || version < 6 {
		return nil // namespaces alone do
	}
	attr := unix.LandlockRulesetAttr{Scoped: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Offsetof(attr.Scoped)+unsafe.Sizeof(attr.Scoped), 0)
	if errno != 0 {
		return fmt.Errorf("make a landlock ruleset: %w", errno)
	}
	_, _, errno = unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
	unix.Close(int(fd))
	if errno != 0 {
		return fmt.Errorf("restrict signals and abstract sockets: %w", errno)
	}
	return nil
}

// listenerPair is the socket of confine; theirs is for the container.
func listenerPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "listener"), os.NewFile(uintptr(fds[1]), "listener"), nil
}

// watch takes the listener that a container which has been started has sent, and answers it. It
// returns nil if there is none.
func watch(ours *os.File) (*seccomp.Watcher, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(ours.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("get the listener of the system-call filter: %w", err)
	}
	if n == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("get the listener of the system-call filter: %d messages, %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("get the listener of the system-call filter: %d descriptors, %w", len(fds), err)
	}
	return seccomp.Watch(fds[0])
}
