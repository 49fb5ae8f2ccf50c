package overlay

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/record"
	"golang.org/x/sys/unix"
)

// CompareLayer is Compare for a tree, b, and the one that it is based on, a, whose Dir may
// be "" for none at all. upper is the directory with what b's own layer has changed: only
// that is looked at. The comparison is of what is at that path, and of what is below it if
// that is asked for.
func CompareLayer(a, b Tree, upper, at string, below bool, found func(Difference) error) error {
	l := newLayer(upper, a.Record, b.Record)
	if !l.touches(at) {
		return nil
	}
	fileA, err := a.Lookup(at)
	if err != nil {
		return err
	}
	fileB, err := b.Lookup(at)
	if err != nil || fileA == nil && fileB == nil {
		return err
	}
	c := comparison{trees: [2]Tree{a, b}, layer: l, devices: [2]map[string][]*File{a.devices(), b.devices()}, found: found}
	if !below {
		return c.one(fileA, fileB)
	}
	return c.pair(fileA, fileB)
}

// Lookup looks at a path of the tree; it is nil if nothing is there. No link on the way is
// followed: nothing is below one.
func (t Tree) Lookup(name string) (*File, error) {
	if t.Dir == "" {
		return nil, nil
	}
	for i, c := range name {
		if c != '/' || i == 0 {
			continue
		}
		if st, err := os.Lstat(filepath.Join(t.Dir, name[:i])); err != nil || !st.IsDir() {
			return nil, ignoreNotExist(err)
		}
	}
	f, err := t.file(name)
	if errors.Is(err, os.ErrNotExist) {
		if e := t.Record[name]; e.Device.Kind != 0 {
			return recordedDevice(name, e), nil
		}
		return nil, nil
	}
	return f, err
}

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// layer is what a layer has changed, or may have.
type layer struct {
	upper string
	// recorded are the paths of which the side records differ, and those above.
	recorded map[string]bool
}

func newLayer(upper string, before, after record.Record) *layer {
	l := &layer{upper: upper, recorded: map[string]bool{}}
	for _, pair := range [2][2]record.Record{{before, after}, {after, before}} {
		for name, e := range pair[0] {
			if other, ok := pair[1][name]; ok && other == e {
				continue
			}
			for ; !l.recorded[name]; name = path.Dir(name) {
				l.recorded[name] = true
			}
		}
	}
	return l
}

// touches says whether what is at the path may be changed by the layer, or something below
// it. Without a layer everything may.
func (l *layer) touches(name string) bool {
	if l == nil || l.recorded[name] {
		return true
	}
	at := l.upper
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if part == "" || replaces(at) {
			break
		}
		at = filepath.Join(at, part)
		st, err := os.Lstat(at)
		if err != nil {
			return !errors.Is(err, os.ErrNotExist)
		}
		if !st.IsDir() {
			break // a file, or a whiteout
		}
	}
	return true
}

// replaces says whether a directory of an upper one hides the one below it, or stands for
// one that was elsewhere (overlayfs.rst).
func replaces(dir string) bool {
	for _, name := range []string{"user.overlay.opaque", "user.overlay.redirect"} {
		if _, err := unix.Lgetxattr(dir, name, nil); err == nil {
			return true
		}
	}
	return false
}
