package mounter

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// authenticate finds out who is at the other end of a client's connection, as the
// kernel noted it when they connected.
func (m *Mounter) authenticate(client int) (*caller, error) {
	peer, err := unix.GetsockoptUcred(client, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, wire.Errorf(syscall.EPERM, "find out who connects: %v", err)
	}
	c, err := identify(m.Etc, m.Group, peer.Uid)
	if err != nil {
		return nil, err
	}
	return c, checkNamespace(client, int(peer.Pid), c)
}

// checkNamespace refuses callers in a user namespace that others have made: there
// the id could be one that was given to them, not one that logged in.
func checkNamespace(client, pid int, c *caller) error {
	pidfd, err := unix.GetsockoptInt(client, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return checkMapOf(pid, c) // before Linux 6.5
	}
	if err != nil {
		return wire.Errorf(syscall.EPERM, "who connected is gone: %v", err)
	}
	defer unix.Close(pidfd)
	// Without CAP_SYS_PTRACE, that is allowed for namespaces that root has made, which
	// are the ones whose map could pass for the caller's.
	theirs, err := unix.IoctlRetInt(pidfd, unix.PIDFD_GET_USER_NAMESPACE)
	if err != nil {
		if err := checkMapOf(pid, c); err != nil {
			return err
		}
		if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil { // pid was theirs until now
			return wire.Errorf(syscall.EPERM, "who connected is gone: %v", err)
		}
		return nil
	}
	defer unix.Close(theirs)
	var ours, other unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/self/ns/user", &ours), unix.Fstat(theirs, &other)); err != nil {
		return fmt.Errorf("compare user namespaces: %w", err)
	}
	if ours.Ino == other.Ino && ours.Dev == other.Dev {
		return nil
	}
	owner, err := unix.IoctlGetUint32(theirs, unix.NS_GET_OWNER_UID)
	if err != nil || owner != c.uid {
		return wire.Errorf(syscall.EPERM, "user %s is in a user namespace of somebody else", c.name)
	}
	return nil
}

// checkMapOf looks at the map of a namespace that cannot be opened: all that it has must
// be the caller's, or it is the machine's and has everything.
func checkMapOf(pid int, c *caller) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/uid_map", pid))
	if err != nil {
		return wire.Errorf(syscall.EPERM, "find out the user namespace of who connects: %v", err)
	}
	defer f.Close()
	empty := true
	for lines := bufio.NewScanner(f); lines.Scan(); empty = false {
		var r wire.Range
		if _, err := fmt.Sscan(lines.Text(), &r.Disk, &r.Host, &r.Count); err != nil {
			return wire.Errorf(syscall.EPERM, "the user namespace of who connects has no map: %v", err)
		}
		if strings.Join(strings.Fields(lines.Text()), " ") == "0 0 4294967295" {
			return nil
		}
		if err := checkRanges("user", []wire.Range{r}, c.uids); err != nil {
			return wire.Errorf(syscall.EPERM, "user %s is in a user namespace of somebody else", c.name)
		}
	}
	if empty {
		return wire.Errorf(syscall.EPERM, "user %s is in a user namespace without a map", c.name)
	}
	return nil
}
