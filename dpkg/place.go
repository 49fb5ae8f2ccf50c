package dpkg

import (
	"archive/tar"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// newSuffix is dpkg's for a configuration file that is not yet configured.
const newSuffix = ".dpkg-new"

// placer moves spooled packages to their places, one after the other.
type placer struct {
	root    string
	tree    *tree
	spool   int // directory of spooled files
	exclude func(name string, dir bool) bool
	owners  map[string]*Package   // of every file that is no directory
	lists   map[*Package][]string // files of each placed package
	db      *database
	// unlinked are the directories of merged /usr that are not made yet.
	unlinked []string
}

func newPlacer(root string, t *tree, spool int, arch string, exclude func(string, bool) bool) *placer {
	return &placer{root: root, tree: t, unlinked: slices.Clone(linkedDirs[arch]), spool: spool, exclude: exclude, owners: map[string]*Package{},
		lists: map[*Package][]string{}, db: newDatabase(t)}
}

// place puts a package's files into the tree and records it as unpacked. With
// bare set no maintainer script has run yet and configuration files go to
// their places at once, because the scripts of other packages need them.
func (pl *placer) place(p *Package, entries []entry, bare bool) error {
	n, err := readNames(pl.tree)
	if err != nil {
		return err
	}
	pl.tree.forget()
	var list []string
	var conffiles, sums strings.Builder
	md5s := map[string]string{}
	for _, e := range linksLast(entries) {
		fresh := pl.owners[e.name] == nil
		kept, err := pl.claim(p, e, n)
		if err != nil {
			return fmt.Errorf("unpack package %s: %w", p.Name, err)
		}
		if !kept {
			continue
		}
		list = append(list, e.name)
		if e.hdr.Typeflag == tar.TypeLink {
			e.md5 = md5s[path.Clean("/"+e.hdr.Linkname)]
		}
		if e.md5 != "" {
			md5s[e.name] = e.md5
			fmt.Fprintf(&sums, "%s  %s\n", e.md5, e.name[1:])
		}
		target := n.divert(e.name, p)
		if p.conffiles[e.name] && !bare {
			target += newSuffix
		} else if p.conffiles[e.name] && fresh {
			_, there, err := pl.tree.lstat(target)
			if err != nil {
				return err
			}
			if there {
				continue // put there before the packages
			}
		}
		if err := pl.put(p, e, target, n, bare); err != nil {
			return fmt.Errorf("unpack package %s: %s: %w", p.Name, e.name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.conffiles)) {
		i := slices.IndexFunc(entries, func(e entry) bool { return e.name == name })
		switch {
		case i < 0:
			return fmt.Errorf("unpack package %s: its configuration file %s is not in it", p.Name, name)
		case bare:
			fmt.Fprintf(&conffiles, "\n %s %s", name, md5s[name])
		default:
			fmt.Fprintf(&conffiles, "\n %s newconffile", name)
		}
	}
	pl.lists[p] = list
	return pl.db.add(p, list, sums.String(), conffiles.String())
}

// linksLast moves symbolic links behind all else, as dpkg does, so that nothing
// of the package is unpacked through them.
func linksLast(entries []entry) []entry {
	isLink := func(e entry) bool { return e.hdr.Typeflag == tar.TypeSymlink }
	links := slices.Clone(entries)
	links = slices.DeleteFunc(links, func(e entry) bool { return !isLink(e) })
	return append(slices.DeleteFunc(slices.Clone(entries), isLink), links...)
}

// claim settles who owns the entry's path; false if it stays another's.
func (pl *placer) claim(p *Package, e entry, n *names) (bool, error) {
	if e.hdr.Typeflag == tar.TypeDir {
		return true, nil
	}
	if _, diverted := n.diversions[e.name]; diverted {
		return true, nil
	}
	q := pl.owners[e.name]
	if q == nil || q == p {
		pl.owners[e.name] = p
		return true, nil
	}
	if q.replacesFilesOf(p) {
		return false, nil
	}
	if !p.replacesFilesOf(q) {
		return false, fmt.Errorf("%s is also in package %s, which it does not replace", e.name, q.Name)
	}
	pl.owners[e.name] = p
	pl.lists[q] = slices.DeleteFunc(pl.lists[q], func(s string) bool { return s == e.name })
	return true, pl.db.writeList(q, pl.lists[q])
}

func (p *Package) replacesFilesOf(q *Package) bool {
	return slices.ContainsFunc(p.replaces, func(alts Alternatives) bool { return alts[0].satisfiedBy(q) })
}

// put makes one entry at target.
func (pl *placer) put(p *Package, e entry, target string, n *names, bare bool) error {
	uid, gid, mode := n.owner(e)
	if e.name == "/" || pl.exclude(e.name, e.hdr.Typeflag == tar.TypeDir) {
		return nil
	}
	top, _, _ := strings.Cut(target[1:], "/")
	if i := slices.Index(pl.unlinked, top); i >= 0 {
		if err := mergeDir(pl.root, top); err != nil {
			return err
		}
		pl.unlinked = slices.Delete(pl.unlinked, i, i+1)
	}
	dir, base, err := pl.tree.at(target)
	if errors.Is(err, unix.ENOENT) {
		// The directory was left out, or the archive does not name it.
		if err = pl.tree.mkdirs(path.Dir(target)); err == nil {
			dir, base, err = pl.tree.at(target)
		}
	}
	if err != nil {
		return err
	}
	switch e.hdr.Typeflag {
	case tar.TypeDir:
		return pl.makeDir(dir, base, target, e, uid, gid, mode)
	case tar.TypeReg:
		return pl.moveFile(dir, base, e, uid, gid, mode)
	case tar.TypeLink:
		return pl.link(dir, base, e, p, n, uid, gid, mode, bare)
	case tar.TypeSymlink:
		return pl.symlink(dir, base, e, uid, gid)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		return pl.node(dir, base, e, uid, gid, mode)
	}
	return fmt.Errorf("archive member of unknown type %q", e.hdr.Typeflag)
}

// makeDir makes a directory; one that is there, or a link to one, stays as it
// is (Debian policy 6.8).
func (pl *placer) makeDir(dir int, base, target string, e entry, uid, gid int, mode uint32) error {
	err := unix.Mkdirat(dir, base, 0o700)
	if err == unix.EEXIST && pl.tree.isDir(target) {
		return nil
	}
	if err != nil {
		return err
	}
	return setMeta(dir, base, e, uid, gid, mode)
}

func (pl *placer) moveFile(dir int, base string, e entry, uid, gid int, mode uint32) error {
	if uid != e.hdr.Uid || gid != e.hdr.Gid || mode != permissions(e.hdr) {
		if err := unix.Fchownat(pl.spool, e.spool, uid, gid, 0); err != nil {
			return err
		}
		// The kernel clears setuid bits with a change of owner.
		if err := unix.Fchmodat(pl.spool, e.spool, mode, 0); err != nil {
			return err
		}
	}
	return unix.Renameat(pl.spool, e.spool, dir, base)
}

// link makes a hard link to a file of the same archive.
func (pl *placer) link(dir int, base string, e entry, p *Package, n *names, uid, gid int, mode uint32, bare bool) error {
	name := path.Clean("/" + e.hdr.Linkname)
	target := n.divert(name, p)
	if p.conffiles[name] && !bare {
		target += newSuffix
	}
	from, fromBase, err := pl.tree.at(target)
	if err != nil {
		return err
	}
	err = unix.Linkat(from, fromBase, dir, base, 0)
	if err == unix.EEXIST {
		if err = unix.Unlinkat(dir, base, 0); err == nil {
			err = unix.Linkat(from, fromBase, dir, base, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("link to %s: %w", name, err)
	}
	return setMeta(dir, base, e, uid, gid, mode)
}

// symlink makes a symbolic link; a directory in its place stays (policy 6.8).
func (pl *placer) symlink(dir int, base string, e entry, uid, gid int) error {
	err := unix.Symlinkat(e.hdr.Linkname, dir, base)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil
		}
		if err = unix.Unlinkat(dir, base, 0); err == nil {
			err = unix.Symlinkat(e.hdr.Linkname, dir, base)
		}
		// What was looked up through the old link is stale.
		defer pl.tree.forget()
	}
	if err != nil {
		return err
	}
	if err := unix.Fchownat(dir, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", uid, gid, err)
	}
	times := timespecs(e.hdr.ModTime)
	return unix.UtimesNanoAt(dir, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
}

func (pl *placer) node(dir int, base string, e entry, uid, gid int, mode uint32) error {
	kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[e.hdr.Typeflag]
	dev := unix.Mkdev(uint32(e.hdr.Devmajor), uint32(e.hdr.Devminor))
	if err := unix.Mknodat(dir, base, kind|0o600, int(dev)); err != nil {
		return fmt.Errorf("make device node or fifo: %w", err)
	}
	return setMeta(dir, base, e, uid, gid, mode)
}

// setMeta sets owner, mode and time of what is not a link.
func setMeta(dir int, base string, e entry, uid, gid int, mode uint32) error {
	if err := unix.Fchownat(dir, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", uid, gid, err)
	}
	if err := unix.Fchmodat(dir, base, mode, 0); err != nil {
		return fmt.Errorf("set mode %#o: %w", mode, err)
	}
	times := timespecs(e.hdr.ModTime)
	return unix.UtimesNanoAt(dir, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
}
