package mounter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ossify/ossify/lease/confine"
	"github.com/ossify/ossify/lease/wire"
)

// span are ids: count of them, from first on.
type span struct {
	owner        string // as the file has it: a name or a number
	first, count uint32
}

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
	i := slices.IndexFunc(users, func(u []string) bool { return u[2] == strconv.FormatUint(uint64(uid), 10) })
	if i < 0 {
		return nil, wire.Errorf(syscall.EPERM, "user id %d is nobody's: only users of %s can have a lease", uid, filepath.Join(etc, "passwd"))
	}
	c := &caller{name: users[i][0], uid: uid}
	if uid == 0 {
		return c, nil
	}
	groups, err := table(etc, "group", 4)
	if err != nil {
		return nil, err
	}
	member := slices.ContainsFunc(groups, func(g []string) bool {
		return g[0] == group && (g[2] == users[i][3] || slices.Contains(strings.Split(g[3], ","), c.name))
	})
	if !member {
		return nil, wire.Errorf(syscall.EPERM, "user %s is not in the group %s; add them with: sudo usermod --append --groups %s %s", c.name, group, group, c.name)
	}
	if c.uids, err = own(etc, "subuid", c, strconv.FormatUint(uint64(uid), 10)); err != nil {
		return nil, err
	}
	c.gids, err = own(etc, "subgid", c, users[i][3])
	return c, err
}

// own returns the ids of a file that are the caller's: their own and the
// subordinate ones. It fails if their own is a subordinate one of somebody.
func own(etc, name string, c *caller, id string) ([]span, error) {
	number, err := strconv.ParseUint(id, 10, 32)
	if err != nil || number == 0 {
		return nil, wire.Errorf(syscall.EPERM, "user %s has the group id %s, with which nothing can be mounted", c.name, id)
	}
	spans := []span{{c.name, uint32(number), 1}}
	f, err := os.Open(filepath.Join(etc, name))
	if errors.Is(err, os.ErrNotExist) {
		return spans, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read subordinate ids: %w", err)
	}
	defer f.Close()
	all, err := parseSpans(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	for _, s := range all {
		if name == "subuid" && s.has(c.uid, 1) {
			return nil, wire.Errorf(syscall.EPERM, "user id %d is a subordinate one of %s", c.uid, s.owner)
		}
		if s.owner == c.name || s.owner == strconv.FormatUint(uint64(c.uid), 10) {
			spans = append(spans, s)
		}
	}
	return spans, nil
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
		if line := strings.Split(lines.Text(), ":"); len(line) >= fields && line[0] != "" {
			out = append(out, line)
		}
	}
	return out, lines.Err()
}

// parseSpans reads subuid(5). Lines that are none are left out, as newuidmap does, and
// spans with root, with the ids that ossify-loop itself uses, or beyond the largest id.
func parseSpans(r io.Reader) (out []span, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.Split(lines.Text(), ":")
		if len(line) != 3 || line[0] == "" || strings.HasPrefix(line[0], "#") {
			continue
		}
		first, err := strconv.ParseUint(line[1], 10, 32)
		count, countErr := strconv.ParseUint(line[2], 10, 32)
		if err != nil || countErr != nil || count == 0 || first+count > 1<<32-1 {
			continue
		}
		s := span{line[0], uint32(first), uint32(count)}
		if s.has(0, 1) || s.has(confine.BrokerID, 1) || s.has(confine.MkfsID, 1) {
			continue
		}
		out = append(out, s)
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

// GroupID returns the number of a group in the file of etc.
func GroupID(etc, name string) (int, error) {
	groups, err := table(etc, "group", 4)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(groups, func(g []string) bool { return g[0] == name })
	if i < 0 {
		return 0, fmt.Errorf("there is no group %s; add it with: sudo groupadd --system %s", name, name)
	}
	return strconv.Atoi(groups[i][2])
}
