package mounter

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ossify/ossify/lease/confine"
	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// span are ids: count of them, from first on.
type span struct{ first, count uint32 }

// has says whether all ids of other are in the span.
func (s span) has(first, count uint32) bool {
	return first >= s.first && uint64(first)+uint64(count) <= uint64(s.first)+uint64(s.count)
}

// caller is who has connected, with the ids that are theirs.
type caller struct {
	name       string
	uid        uint32
	uids, gids []span
}

// identify looks a user id up in /etc. It fails with EPERM for all but people in the
// group; root can only ask for the status.
func identify(group string, uid uint32) (*caller, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil, wire.Errorf(syscall.EPERM, "user id %d is nobody's: only users of /etc/passwd can have a lease (%v)", uid, err)
	}
	c := &caller{name: u.Username, uid: uid}
	if uid == 0 {
		return c, nil
	}
	g, groupErr := user.LookupGroup(group)
	groups, err := u.GroupIds()
	if cmp.Or(groupErr, err) != nil || !slices.Contains(groups, g.Gid) {
		return nil, wire.Errorf(syscall.EPERM, "user %s is not in the group %s; add them with: sudo usermod --append --groups %s %s", c.name, group, group, c.name)
	}
	if c.uids, err = own("/etc/subuid", c, u.Uid); err == nil {
		c.gids, err = own("/etc/subgid", c, u.Gid)
	}
	return c, err
}

// own returns the ids of a file that are the caller's: their own and the
// subordinate ones. It fails if their own is a subordinate one of somebody.
func own(path string, c *caller, id string) ([]span, error) {
	number, err := strconv.ParseUint(id, 10, 32)
	if err != nil || number == 0 {
		return nil, wire.Errorf(syscall.EPERM, "user %s has the group id %s, with which nothing can be mounted", c.name, id)
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("find subordinate ids: %w", err)
	}
	spans := []span{{uint32(number), 1}}
	for line := range strings.Lines(string(text)) {
		owner, s, ok := parseSpan(line)
		if ok && path == "/etc/subuid" && s.has(c.uid, 1) {
			return nil, wire.Errorf(syscall.EPERM, "user id %d is a subordinate one of %s", c.uid, owner)
		}
		if ok && (owner == c.name || owner == strconv.FormatUint(uint64(c.uid), 10)) {
			spans = append(spans, s)
		}
	}
	return spans, nil
}

// parseSpan reads a line of subuid(5). Lines that are none do not count, as for
// newuidmap, nor do spans with root, with the ids that ossify-loop itself uses, or beyond
// the largest id.
func parseSpan(line string) (owner string, s span, ok bool) {
	field := strings.Split(strings.TrimSpace(line), ":")
	if len(field) != 3 || field[0] == "" || field[0][0] == '#' {
		return "", s, false
	}
	first, err := strconv.ParseUint(field[1], 10, 32)
	count, countErr := strconv.ParseUint(field[2], 10, 32)
	s = span{uint32(first), uint32(count)}
	return field[0], s, err == nil && countErr == nil && count > 0 && first+count <= 1<<32-1 &&
		!s.has(0, 1) && !s.has(confine.BrokerID, 1) && !s.has(confine.MkfsID, 1)
}

// checkRanges refuses ids that are not the caller's.
func checkRanges(what string, ranges []wire.Range, mine []span) error {
	for _, r := range ranges {
		if !slices.ContainsFunc(mine, func(s span) bool { return s.has(r.Host, r.Count) }) {
			return wire.Errorf(syscall.EPERM, "the %s ids from %d to %d are not yours: a mount has your own id and the subordinate ids that are given to you", what, r.Host, r.Host+r.Count-1)
		}
	}
	return nil
}

// authenticate finds out who is at the other end of a client's connection, as the
// kernel noted it when they connected: a user of the group, who is in no sandbox.
func (m *Mounter) authenticate(client int) (*caller, error) {
	peer, err := unix.GetsockoptUcred(client, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, wire.Errorf(syscall.EPERM, "find out who connects: %v", err)
	}
	c, err := identify(m.Group, peer.Uid)
	if err != nil {
		return nil, err
	}
	// It keeps the process's number from being given to another (Linux 6.5).
	pidfd, err := unix.GetsockoptInt(client, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		defer unix.Close(pidfd)
	} else if !errors.Is(err, unix.ENOPROTOOPT) {
		return nil, wire.Errorf(syscall.EPERM, "who connected is gone: %v", err)
	}
	status, statusErr := os.ReadFile(fmt.Sprintf("/proc/%d/status", peer.Pid))
	ids, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", peer.Pid))
	if err = errors.Join(statusErr, err); err == nil && pidfd > 0 {
		err = unix.PidfdSendSignal(pidfd, 0, nil, 0)
	}
	if err != nil {
		return nil, wire.Errorf(syscall.EPERM, "who connected is gone: %v", err)
	}
	return c, checkSandbox(c, string(status), string(ids))
}

// checkSandbox refuses processes in a PID namespace of their own, which the stages of a
// build are, and in a user namespace whose map has other ids than the caller's: there
// their id could be one that was given to them, not one that logged in. The machine's own
// namespace has all ids. The texts are those of /proc (proc_pid_status(5),
// user_namespaces(7)).
func checkSandbox(c *caller, status, ids string) error {
	_, numbers, _ := strings.Cut(status, "\nNSpid:")
	numbers, _, _ = strings.Cut(numbers, "\n")
	if len(strings.Fields(numbers)) != 1 {
		return wire.Errorf(syscall.EPERM, "user %s is in a container, or in a stage of a build: ossify-loop is for processes outside", c.name)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(ids), "\n") {
		var r wire.Range
		_, err := fmt.Sscan(line, &r.Disk, &r.Host, &r.Count)
		if err != nil || r != (wire.Range{Count: 1<<32 - 1}) && checkRanges("user", []wire.Range{r}, c.uids) != nil {
			return wire.Errorf(syscall.EPERM, "user %s is in a user namespace of somebody else, or one without a map", c.name)
		}
	}
	return nil
}
