package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/ulikunitz/xz"
)

// tree is what an archive holds, by path.
type tree map[string]*node

// node is one path. Names that are hard links of each other share one.
type node struct {
	kind     string
	mode     int64
	uid, gid int
	time     time.Time
	// anyTime says that the time is not fixed.
	anyTime bool
	// target is where a symbolic link leads.
	target string
	// device is the number of a device node.
	device string
	size   int64
	sum    [sha256.Size]byte
	attrs  map[string]string
	// names of a file with hard links, sorted.
	names []string
	// inside is what a file holds that is an archive itself.
	inside tree
}

var kinds = map[byte]string{
	tar.TypeReg: "file", tar.TypeDir: "folder", tar.TypeSymlink: "symbolic link",
	tar.TypeFifo: "pipe", tar.TypeChar: "character device", tar.TypeBlock: "block device",
	tar.TypeGNUSparse: "file",
}

// readFile reads the tar archive of that name.
func readFile(name string) (tree, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := readTar(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

func readTar(r io.Reader) (tree, error) {
	t := tree{}
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean("/" + h.Name)
		if h.Typeflag == tar.TypeLink {
			n := t[path.Clean("/"+h.Linkname)]
			if n == nil {
				return nil, fmt.Errorf("%s is a link to %s, which is not in the archive before it", name, h.Linkname)
			}
			n.names = append(n.names, name)
			sort.Strings(n.names)
			t[name] = n
			continue
		}
		kind := kinds[h.Typeflag]
		if kind == "" {
			return nil, fmt.Errorf("%s is of the unknown type %q", name, h.Typeflag)
		}
		n := &node{kind: kind, mode: h.Mode, uid: h.Uid, gid: h.Gid, time: h.ModTime, target: h.Linkname, attrs: map[string]string{}, names: []string{name}}
		if kind == "character device" || kind == "block device" {
			n.device = fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
		}
		for key, value := range h.PAXRecords {
			for _, prefix := range []string{"SCHILY.xattr.", "SCHILY.acl."} {
				if strings.HasPrefix(key, prefix) {
					n.attrs[strings.TrimPrefix(key, "SCHILY.")] = value
				}
			}
		}
		if kind == "file" {
			if err := n.readContent(name, archive); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		t[name] = n
	}
}

// readContent takes the checksum of a file, or reads what is in it.
func (n *node) readContent(name string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	n.size, n.sum = int64(len(data)), sha256.Sum256(data)
	switch {
	case strings.HasSuffix(name, ".zip"):
		n.inside, err = readZip(data)
	case strings.HasSuffix(name, ".tar"):
		var plain io.Reader
		if plain, err = decompress(data); err == nil {
			n.inside, err = readTar(plain)
		}
	}
	return err
}

// decompress returns the archive that may be compressed, whatever its name.
func decompress(data []byte) (io.Reader, error) {
	switch {
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		return gzip.NewReader(bytes.NewReader(data))
	case bytes.HasPrefix(data, []byte("\xfd7zXZ\x00")):
		return xz.NewReader(bytes.NewReader(data))
	}
	return bytes.NewReader(data), nil
}

func readZip(data []byte) (tree, error) {
	archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	t := tree{}
	for _, f := range archive.File {
		name := path.Clean("/" + f.Name)
		n := &node{kind: "file", mode: int64(f.Mode()), time: f.Modified, names: []string{name}}
		r, err := f.Open()
		if err != nil {
			return nil, err
		}
		err = n.readContent(name, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		t[name] = n
	}
	return t, nil
}

// loosenTimes notes which times of a tree another build of it has otherwise.
func loosenTimes(t, again tree) {
	for name, n := range t {
		other := again[name]
		if other == nil {
			continue
		}
		if !n.time.Equal(other.time) {
			n.anyTime = true
		}
		if n.inside != nil && other.inside != nil {
			loosenTimes(n.inside, other.inside)
		}
	}
}

// difference is one thing that is not as wanted.
type difference struct{ path, what string }

func (d difference) String() string { return fmt.Sprintf("%q %s", d.path, d.what) }

// diff lists how got differs from want. Paths begin with prefix.
func diff(prefix string, want, got tree) []difference {
	names := map[string]bool{}
	for name := range want {
		names[name] = true
	}
	for name := range got {
		names[name] = true
	}
	var all []difference
	for _, name := range sorted(names) {
		w, g, path := want[name], got[name], prefix+name
		switch {
		case g == nil:
			all = append(all, difference{path, "is missing: a " + w.kind})
		case w == nil:
			all = append(all, difference{path, "is too many: a " + g.kind})
		default:
			for _, what := range w.differences(g) {
				all = append(all, difference{path, "has another " + what})
			}
			if w.inside != nil && g.inside != nil {
				all = append(all, diff(path+"!", w.inside, g.inside)...)
			}
		}
	}
	return all
}

// differences says in what a node is not as wanted.
func (n *node) differences(got *node) []string {
	var lines []string
	differ := func(what, want, got any) {
		if want != got {
			lines = append(lines, fmt.Sprintf("%s: %v instead of %v", what, got, want))
		}
	}
	differ("type", n.kind, got.kind)
	differ("mode", fmt.Sprintf("%04o", n.mode), fmt.Sprintf("%04o", got.mode))
	differ("owner", fmt.Sprintf("%d:%d", n.uid, n.gid), fmt.Sprintf("%d:%d", got.uid, got.gid))
	differ("target", n.target, got.target)
	differ("device", n.device, got.device)
	differ("names", strings.Join(n.names, " "), strings.Join(got.names, " "))
	if !n.anyTime {
		differ("time", clock(n.time), clock(got.time))
	}
	if n.inside == nil || got.inside == nil {
		differ("size", n.size, got.size)
		if n.size == got.size {
			differ("content", fmt.Sprintf("sha256:%x", n.sum), fmt.Sprintf("sha256:%x", got.sum))
		}
	}
	keys := map[string]bool{}
	for key := range n.attrs {
		keys[key] = true
	}
	for key := range got.attrs {
		keys[key] = true
	}
	for _, key := range sorted(keys) {
		differ(key, value(n.attrs, key), value(got.attrs, key))
	}
	return lines
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func value(attrs map[string]string, key string) string {
	if v, ok := attrs[key]; ok {
		return fmt.Sprintf("%q", v)
	}
	return "not there"
}

func sorted(set map[string]bool) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
