package mounter

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// identify looks a user id up in the files of etc. It fails with EPERM for all but
// people in the group; root can only ask for the status.
func identify(etc, group string, uid uint32) (*caller, error) {
	users, err := table(etc, "passwd", 4)
	if err != nil {
		return nil, err
	}
	number := strconv.FormatUint(uint64(uid), 10)
	i := slices.IndexFunc(users, func(u []string) bool { return u[2] == number })
	if i < 0 {
		return nil, wire.Errorf(syscall.EPERM, "user id %d is nobody's: only users of %s can have a lease", uid, filepath.Join(etc, "passwd"))
	}
	c, gid := &caller{name: users[i][0], uid: uid}, users[i][3]
	if uid == 0 {
		return c, nil
	}
	members, err := findGroup(etc, group)
	if err != nil {
		return nil, err
	}
	if members[2] != gid && !slices.Contains(strings.Split(members[3], ","), c.name) {
		return nil, wire.Errorf(syscall.EPERM, "user %s is not in the group %s; add them with: sudo usermod --append --groups %s %s", c.name, group, group, c.name)
	}
	if c.uids, err = own(etc, "subuid", c, number); err == nil {
		c.gids, err = own(etc, "subgid", c, gid)
	}
	return c, err
}

// own returns the ids of a file that are the caller's: their own and the
// subordinate ones. It fails if their own is a subordinate one of somebody.
func own(etc, name string, c *caller, id string) ([]span, error) {
	number, err := strconv.ParseUint(id, 10, 32)
	if err != nil || number == 0 {
		return nil, wire.Errorf(syscall.EPERM, "user %s has the group id %s, with which nothing can be mounted", c.name, id)
	}
	spans := []span{{uint32(number), 1}}
	lines, err := table(etc, name, 3)
	if errors.Is(err, os.ErrNotExist) {
		return spans, nil
	}
	for _, line := range lines {
		s, ok := parseSpan(line)
		if ok && name == "subuid" && s.has(c.uid, 1) {
			return nil, wire.Errorf(syscall.EPERM, "user id %d is a subordinate one of %s", c.uid, line[0])
		}
		if ok && (line[0] == c.name || line[0] == strconv.FormatUint(uint64(c.uid), 10)) {
			spans = append(spans, s)
		}
	}
	return spans, err
}

// parseSpan reads the fields of a line of subuid(5). Lines that are none do not count, as for
// newuidmap, nor do spans with root, with the ids that ossify-loop itself uses, or beyond
// the largest id.
func parseSpan(line []string) (s span, ok bool) {
	first, err := strconv.ParseUint(line[1], 10, 32)
	count, countErr := strconv.ParseUint(line[2], 10, 32)
	s = span{uint32(first), uint32(count)}
	return s, len(line) == 3 && err == nil && countErr == nil && count > 0 && first+count <= 1<<32-1 &&
		!s.has(0, 1) && !s.has(confine.BrokerID, 1) && !s.has(confine.MkfsID, 1)
}

// table reads the lines of a file such as passwd(5) that have at least so many
// fields.
func table(etc, name string, fields int) (out [][]string, err error) {
	f, err := os.Open(filepath.Join(etc, name))
	if err != nil {
		return nil, fmt.Errorf("find out who users are: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if line := strings.Split(lines.Text(), ":"); len(line) >= fields && line[0] != "" && line[0][0] != '#' {
			out = append(out, line)
		}
	}
	return out, lines.Err()
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

// findGroup returns the fields of a group's line in the file of etc.
func findGroup(etc, name string) ([]string, error) {
	groups, err := table(etc, "group", 4)
	i := slices.IndexFunc(groups, func(g []string) bool { return g[0] == name })
	if err == nil && i < 0 {
		err = fmt.Errorf("there is no group %s; add it with: sudo groupadd --system %s", name, name)
	}
	if err != nil {
		return nil, err
	}
	return groups[i], nil
}

// GroupID returns the number of a group in the file of etc.
func GroupID(etc, name string) (int, error) {
	group, err := findGroup(etc, name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(group[2])
}

// authenticate finds out who is at the other end of a client's connection, as the
// kernel noted it when they connected: a user of the group, who is in no sandbox.
func (m *Mounter) authenticate(client int) (*caller, error) {
	peer, err := unix.GetsockoptUcred(client, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, wire.Errorf(syscall.EPERM, "find out who connects: %v", err)
	}
	c, err := identify(m.Etc, m.Group, peer.Uid)
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
	for line := range strings.Lines(ids) {
		var r wire.Range
		if _, err := fmt.Sscan(line, &r.Disk, &r.Host, &r.Count); err != nil {
			return wire.Errorf(syscall.EPERM, "user %s is in a namespace with the map %q: %v", c.name, line, err)
		}
		if r != (wire.Range{Count: 1<<32 - 1}) && checkRanges("user", []wire.Range{r}, c.uids) != nil {
			return wire.Errorf(syscall.EPERM, "user %s is in a user namespace of somebody else", c.name)
		}
	}
	if ids == "" {
		return wire.Errorf(syscall.EPERM, "user %s is in a user namespace without a map", c.name)
	}
	return nil
}
