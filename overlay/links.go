package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"golang.org/x/sys/unix"
)

// When a file of a lower directory is changed the kernel copies the one name that
// was used to the upper directory, and the file's other hard links go on showing
// what was there before. Without index, which user namespaces cannot have, nothing
// in the kernel mends that (overlayfs.rst, "Non-standard behavior"), so it is done
// here when a stage has ended: all names become links of the changed file again.

// linksMark is an attribute of a directory in which there are hard links; stacks
// without any need not be looked through.
const linksMark = "user.overlay.ossify.links"

// markLinks notes that there are hard links in the upper directory.
func (s *Stack) markLinks() error {
	if err := unix.Setxattr(s.Upper, linksMark, []byte("y"), 0); err != nil {
		return fmt.Errorf("mark hard links of %s: %w", s.Upper, err)
	}
	return nil
}

func (s *Stack) lowerHasLinks() bool {
	for _, dir := range s.Lower {
		if _, err := unix.Getxattr(dir, linksMark, nil); err == nil {
			return true
		}
	}
	return false
}

// linkJoiner has the stack mounted twice: as it was before the stage and as it is.
type linkJoiner struct {
	stack         *Stack
	before, after string
	// upper has the names in the upper directory, by inode.
	upper map[uint64][]string
}

// joinLinks makes names one file again that copies on write have parted. dir is
// where a directory for mounts is made if need be.
func (s *Stack) joinLinks(dir string) (err error) {
	if !s.lowerHasLinks() {
		return nil
	}
	j := &linkJoiner{stack: s, before: filepath.Join(dir, "before"), after: filepath.Join(dir, "after")}
	if j.upper, err = filesBelow(s.Upper, nil); err != nil || len(j.upper) == 0 {
		return err
	}
	for _, point := range []string{j.before, j.after} {
		if err := os.MkdirAll(point, 0o755); err != nil {
			return err
		}
	}
	// Nothing is left below it but what could not be unmounted.
	defer func() { err = errors.Join(err, os.Remove(j.before), os.Remove(j.after), os.Remove(dir)) }()
	unmount, err := (&Stack{Lower: s.Lower}).Mount(j.before)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	copies := map[uint64][]string{}
	for _, names := range j.upper {
		for _, name := range names {
			inode, err := j.copiedFrom(name)
			if err != nil {
				return err
			}
			if inode != 0 {
				copies[inode] = append(copies[inode], name)
			}
		}
	}
	if len(copies) == 0 {
		return nil
	}
	names, err := filesBelow(j.before, copies)
	if err != nil {
		return err
	}
	// The stage's own mount was volatile, and is gone.
	if err := s.forgetVolatile(); err != nil {
		return err
	}
	unmountAfter, err := s.Mount(j.after)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmountAfter()) }()
	for _, inode := range slices.Sorted(maps.Keys(copies)) {
		if err := j.join(names[inode], copies[inode], inode); err != nil {
			return fmt.Errorf("join the hard links of %s: %w", copies[inode][0], err)
		}
	}
	return nil
}

// filesBelow lists the names of regular files below dir, relative to it, by inode;
// of those inodes only, if wanted is not nil.
func filesBelow(dir string, wanted map[uint64][]string) (map[uint64][]string, error) {
	names := map[uint64][]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		st, err := lstat(dir, name)
		if err == nil && st != nil && (wanted == nil || wanted[st.Ino] != nil) {
			names[st.Ino] = append(names[st.Ino], name)
		}
		return err
	})
	return names, err
}

// copiedFrom returns the inode of the lower file with hard links that the upper
// file of that name is a copy of; 0 if there is none, or the file is another one
// that has taken its place. What has its size and time is a copy; so is what has
// other content in a folder where no name came or went.
func (j *linkJoiner) copiedFrom(name string) (uint64, error) {
	low, err := lstat(j.before, name)
	if err != nil || low == nil || low.Mode&unix.S_IFMT != unix.S_IFREG || low.Nlink < 2 {
		return 0, err
	}
	up, err := lstat(j.stack.Upper, name)
	if err != nil || up == nil {
		return 0, err
	}
	if up.Mtim == low.Mtim && up.Size == low.Size {
		return low.Ino, nil
	}
	lowDir, err := lstat(j.before, filepath.Dir(name))
	if err != nil {
		return 0, err
	}
	upDir, err := lstat(j.stack.Upper, filepath.Dir(name))
	if err != nil || lowDir.Mtim != upDir.Mtim {
		return 0, err
	}
	return low.Ino, nil
}

// lstat returns nil if there is no such name.
func lstat(dir, name string) (*unix.Stat_t, error) {
	path := filepath.Join(dir, name)
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return &st, nil
}

// join makes names, which had that inode, links of one of the copies, which gets
// what was changed of the others; so do names that the stage has linked to a copy.
func (j *linkJoiner) join(names, copies []string, inode uint64) error {
	kept, stats, err := j.choose(copies)
	if err != nil {
		return err
	}
	linked := j.upper[stats[kept].Ino]
	for _, name := range copies {
		if slices.Contains(linked, name) {
			continue
		}
		for _, name := range j.upper[stats[name].Ino] {
			if err := j.replace(name, kept); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		untouched, err := j.untouched(name, inode)
		if err != nil {
			return err
		}
		if !untouched {
			continue
		}
		if err := j.replace(name, kept); err != nil {
			return err
		}
	}
	return nil
}

// choose returns the copy that stays: the one that was changed last, of those with
// other content if there are any. stats are those of all copies.
func (j *linkJoiner) choose(copies []string) (kept string, stats map[string]*unix.Stat_t, err error) {
	before, err := lstat(j.before, copies[0])
	if err != nil {
		return "", nil, err
	}
	stats = map[string]*unix.Stat_t{}
	for _, name := range copies {
		if stats[name], err = lstat(j.stack.Upper, name); err != nil {
			return "", nil, err
		}
	}
	written := func(name string) bool {
		return stats[name].Mtim != before.Mtim || stats[name].Size != before.Size
	}
	sort.SliceStable(copies, func(a, b int) bool {
		if written(copies[a]) != written(copies[b]) {
			return written(copies[b])
		}
		x, y := stats[copies[a]].Ctim, stats[copies[b]].Ctim
		return x.Sec < y.Sec || x.Sec == y.Sec && x.Nsec < y.Nsec
	})
	kept = copies[len(copies)-1]
	for _, name := range copies[:len(copies)-1] {
		if stats[name].Ino == stats[kept].Ino {
			continue
		}
		if err := j.adopt(kept, name, before, stats[name]); err != nil {
			return "", nil, err
		}
	}
	return kept, stats, nil
}

// adopt changes of kept what other has otherwise than both had before.
func (j *linkJoiner) adopt(kept, other string, before, changed *unix.Stat_t) error {
	path := filepath.Join(j.after, kept)
	own, err := lstat(j.after, kept)
	if err != nil {
		return err
	}
	mode := own.Mode
	if before.Mode != changed.Mode {
		mode = changed.Mode
	}
	if before.Uid != changed.Uid || before.Gid != changed.Gid {
		if err := os.Lchown(path, int(changed.Uid), int(changed.Gid)); err != nil {
			return err
		}
	}
	// Another owner takes the setuid bit away.
	if err := unix.Chmod(path, mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	old, err := attributes(filepath.Join(j.before, other))
	if err != nil {
		return err
	}
	new, err := attributes(filepath.Join(j.after, other))
	if err != nil {
		return err
	}
	for name, value := range new {
		if was, ok := old[name]; !ok || was != value {
			if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
				return &os.PathError{Op: "set attribute " + name, Path: path, Err: err}
			}
		}
	}
	for name := range old {
		if _, ok := new[name]; ok {
			continue
		}
		if err := unix.Lremovexattr(path, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return &os.PathError{Op: "remove attribute " + name, Path: path, Err: err}
		}
	}
	return nil
}

// untouched says whether the name still is the lower file.
func (j *linkJoiner) untouched(name string, inode uint64) (bool, error) {
	up, err := lstat(j.stack.Upper, name)
	if err != nil || up != nil {
		return false, err
	}
	st, err := lstat(j.after, name)
	return err == nil && st != nil && st.Ino == inode, err
}

// replace makes name a link of kept. The time of its folder stays.
func (j *linkJoiner) replace(name, kept string) error {
	dir, err := lstat(j.after, filepath.Dir(name))
	if err != nil {
		return err
	}
	path := filepath.Join(j.after, name)
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := os.Link(filepath.Join(j.after, kept), path); err != nil {
		return err
	}
	times := []unix.Timespec{dir.Atim, dir.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Dir(path), times, 0); err != nil {
		return &os.PathError{Op: "utimensat", Path: filepath.Dir(path), Err: err}
	}
	return nil
}
