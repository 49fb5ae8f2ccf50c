package dpkg

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// names are the things of the tree that an unpacking depends on and that
// maintainer scripts may have changed.
type names struct {
	users, groups map[string]int
	diversions    map[string]diversion
	overrides     map[string]override
}

// diversion moves a path of all packages but one (dpkg-divert(1)).
type diversion struct{ to, by string }

// override is an entry of dpkg-statoverride(1).
type override struct {
	uid, gid int
	mode     uint32
}

// owner returns the owner and mode that the entry gets. As in dpkg a user or
// group that the tree knows by name goes before the number in the archive.
func (n *names) owner(e entry) (uid, gid int, mode uint32) {
	if o, ok := n.overrides[e.name]; ok {
		return o.uid, o.gid, o.mode
	}
	uid, gid, mode = e.hdr.Uid, e.hdr.Gid, permissions(e.hdr)
	if id, ok := n.users[e.hdr.Uname]; ok {
		uid = id
	}
	if id, ok := n.groups[e.hdr.Gname]; ok {
		gid = id
	}
	return uid, gid, mode
}

// divert returns where a path of package p really goes.
func (n *names) divert(name string, p *Package) string {
	if d, ok := n.diversions[name]; ok && d.by != p.Name {
		return d.to
	}
	return name
}

// readNames reads the tree's accounts, diversions and overrides.
func readNames(t *tree) (*names, error) {
	n := &names{diversions: map[string]diversion{}, overrides: map[string]override{}}
	var err error
	if n.users, err = readIDs(t, "/etc/passwd"); err != nil {
		return nil, err
	}
	if n.groups, err = readIDs(t, "/etc/group"); err != nil {
		return nil, err
	}
	data, err := t.readFile(path.Join(adminDir, "diversions"))
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	for i := 0; i+2 < len(lines); i += 3 {
		n.diversions[lines[i]] = diversion{to: lines[i+1], by: lines[i+2]}
	}
	if data, err = t.readFile(path.Join(adminDir, "statoverride")); err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 {
			return nil, fmt.Errorf("statoverride of the tree: cannot read %q", line)
		}
		mode, err := strconv.ParseUint(f[2], 8, 32)
		if err != nil {
			return nil, fmt.Errorf("statoverride of the tree: mode in %q: %w", line, err)
		}
		uid, err := lookup(n.users, f[0])
		if err != nil {
			return nil, fmt.Errorf("statoverride of the tree: user in %q: %w", line, err)
		}
		gid, err := lookup(n.groups, f[1])
		if err != nil {
			return nil, fmt.Errorf("statoverride of the tree: group in %q: %w", line, err)
		}
		n.overrides[f[3]] = override{uid, gid, uint32(mode)}
	}
	return n, nil
}

// readIDs reads the numbers of passwd(5) or group(5).
func readIDs(t *tree, name string) (map[string]int, error) {
	data, err := t.readFile(name)
	if err != nil {
		return nil, err
	}
	ids := map[string]int{}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 3 || f[0] == "" {
			continue
		}
		id, err := strconv.Atoi(f[2])
		if err != nil {
			return nil, fmt.Errorf("%s: number of %s: %w", name, f[0], err)
		}
		ids[f[0]] = id
	}
	return ids, nil
}

// lookup resolves a name or, behind a hash sign, a number.
func lookup(ids map[string]int, name string) (int, error) {
	if number, ok := strings.CutPrefix(name, "#"); ok {
		return strconv.Atoi(number)
	}
	if id, ok := ids[name]; ok {
		return id, nil
	}
	return 0, fmt.Errorf("no %q in the tree", name)
}
