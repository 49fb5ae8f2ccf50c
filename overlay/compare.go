package overlay

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ossify/ossify/record"
	"golang.org/x/sys/unix"
)

// Tree is a directory with its side record, which may be nil.
type Tree struct {
	Dir    string
	Record record.Record
}

// File is what is at a path of a tree.
type File struct {
	// Path is absolute, as seen from the tree.
	Path string
	// Mode is that of stat(2), with the file type.
	Mode     uint32
	UID, GID uint32
	// Device is the number of a device node, as stat(2) has it.
	Device uint64
	// Size is that of a regular file, in bytes.
	Size int64
	// Target is that of a symbolic link.
	Target string
	// Label is the SELinux context, Flags are the inode flags of the side record.
	Label string
	Flags uint32
	// Attributes are extended attributes, without the label.
	Attributes map[string]string
	stat       unix.Stat_t
	file       string // "" if the side record alone has it
}

// Difference is a path that two trees do not have alike. A or B is nil if that
// tree has nothing there.
type Difference struct {
	A, B *File
	// Content says that regular files hold other bytes.
	Content bool
}

// Compare calls found for each path in which the trees differ, sorted by path:
// in type, mode, owner, device number, content, target, label, inode flags or
// attributes; not in times. What is below a directory that one of them lacks is
// found path by path.
func Compare(a, b Tree, found func(Difference) error) error {
	c := comparison{trees: [2]Tree{a, b}, devices: [2]map[string][]*File{a.devices(), b.devices()}, found: found}
	rootA, err := a.file("/")
	if err != nil {
		return err
	}
	rootB, err := b.file("/")
	if err != nil {
		return err
	}
	return c.pair(rootA, rootB)
}

type comparison struct {
	trees [2]Tree
	// layer, if not nil, is what is looked at.
	layer *layer
	// devices are those of the side records, by directory.
	devices [2]map[string][]*File
	found   func(Difference) error
}

// one compares two files, of which one may be nil.
func (c *comparison) one(a, b *File) error {
	d := Difference{A: a, B: b}
	different := a == nil || b == nil || !a.equal(b)
	if a != nil && b != nil && a.isRegular() && b.isRegular() {
		same, err := sameContent(a, b)
		if err != nil {
			return err
		}
		d.Content = !same
	}
	if different || d.Content {
		return c.found(d)
	}
	return nil
}

// pair compares two files, of which one may be nil, and what is below.
func (c *comparison) pair(a, b *File) error {
	if err := c.one(a, b); err != nil {
		return err
	}
	below, err := c.below(a, b)
	if err != nil {
		return err
	}
	for _, both := range below {
		if err := c.pair(both[0], both[1]); err != nil {
			return err
		}
	}
	return nil
}

// below returns the entries of two directories by name.
func (c *comparison) below(a, b *File) ([][2]*File, error) {
	entries := map[string]*[2]*File{}
	for i, f := range []*File{a, b} {
		if f == nil || f.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		files, err := c.trees[i].entries(f, c.layer)
		if err != nil {
			return nil, err
		}
		for _, device := range c.devices[i][f.Path] {
			if c.layer.touches(device.Path) && !slices.ContainsFunc(files, func(f *File) bool { return f.Path == device.Path }) {
				files = append(files, device)
			}
		}
		for _, f := range files {
			if entries[f.Path] == nil {
				entries[f.Path] = &[2]*File{}
			}
			entries[f.Path][i] = f
		}
	}
	var out [][2]*File
	for _, both := range entries {
		out = append(out, *both)
	}
	slices.SortFunc(out, func(x, y [2]*File) int { return cmp.Compare(cmp.Or(x[0], x[1]).Path, cmp.Or(y[0], y[1]).Path) })
	return out, nil
}

// entries returns what is in a directory and may be changed by the layer, nil for all of it.
func (t Tree) entries(dir *File, changed *layer) ([]*File, error) {
	names, err := os.ReadDir(dir.file)
	if err != nil {
		return nil, err
	}
	var out []*File
	for _, name := range names {
		name := path.Join(dir.Path, name.Name())
		if !changed.touches(name) {
			continue
		}
		f, err := t.file(name)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// devices returns the devices of the side record by directory.
func (t Tree) devices() map[string][]*File {
	out := map[string][]*File{}
	for name, e := range t.Record {
		if e.Device.Kind == 0 {
			continue
		}
		out[path.Dir(name)] = append(out[path.Dir(name)], recordedDevice(name, e))
	}
	return out
}

// recordedDevice is the device node of an entry of a side record.
func recordedDevice(name string, e record.Entry) *File {
	kind := uint32(unix.S_IFCHR)
	if e.Device.Kind == 'b' {
		kind = unix.S_IFBLK
	}
	return &File{
		Path: name, Mode: kind | e.Device.Mode, UID: e.Device.UID, GID: e.Device.GID,
		Device: unix.Mkdev(e.Device.Major, e.Device.Minor), Label: e.Label, Flags: e.Flags,
	}
}

// file looks at a path of the tree.
func (t Tree) file(name string) (*File, error) {
	f := &File{Path: name, file: filepath.Join(t.Dir, name)}
	if err := unix.Lstat(f.file, &f.stat); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: f.file, Err: err}
	}
	f.Mode, f.UID, f.GID = f.stat.Mode, f.stat.Uid, f.stat.Gid
	var err error
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.Size = f.stat.Size
	case unix.S_IFCHR, unix.S_IFBLK:
		f.Device = f.stat.Rdev
	case unix.S_IFLNK:
		if f.Target, err = os.Readlink(f.file); err != nil {
			return nil, err
		}
	}
	f.Attributes, err = attributes(f.file)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return nil, err
	}
	for key := range f.Attributes {
		if strings.HasPrefix(key, "user.overlay.") || strings.HasPrefix(key, "trusted.overlay.") {
			delete(f.Attributes, key)
		}
	}
	const label = "security.selinux"
	f.Label = strings.TrimRight(f.Attributes[label], "\x00\n")
	delete(f.Attributes, label)
	if e, ok := t.Record[name]; ok {
		f.Label, f.Flags = cmp.Or(e.Label, f.Label), e.Flags
	}
	return f, nil
}

func (f *File) isRegular() bool { return f.Mode&unix.S_IFMT == unix.S_IFREG }

// equal compares all but contents.
func (f *File) equal(other *File) bool {
	if f.Mode != other.Mode || f.UID != other.UID || f.GID != other.GID || f.Device != other.Device ||
		f.Target != other.Target || f.Label != other.Label || f.Flags != other.Flags || len(f.Attributes) != len(other.Attributes) {
		return false
	}
	for name, value := range f.Attributes {
		if got, ok := other.Attributes[name]; !ok || got != value {
			return false
		}
	}
	return true
}

// sameContent compares regular files. Trees that share layers have the same inode.
func sameContent(a, b *File) (bool, error) {
	if a.Size != b.Size {
		return false, nil
	}
	if a.stat.Ino == b.stat.Ino && a.stat.Mtim == b.stat.Mtim && a.stat.Ctim == b.stat.Ctim {
		return true, nil
	}
	one, err := os.Open(a.file)
	if err != nil {
		return false, err
	}
	defer one.Close()
	two, err := os.Open(b.file)
	if err != nil {
		return false, err
	}
	defer two.Close()
	bufA, bufB := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(one, bufA)
		m, errB := io.ReadFull(two, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		if errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF) {
			return true, nil
		}
		if err := errors.Join(errA, errB); err != nil {
			return false, fmt.Errorf("compare %s: %w", a.Path, err)
		}
	}
}

// Sum returns the SHA-256 of a regular file's content in hexadecimal.
func (f *File) Sum() (string, error) {
	file, err := os.Open(f.file)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("read %s: %w", f.Path, err)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), nil
}
