package rpms

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// tree is what a package has: files below root, and the lines of %files that
// list them.
type tree struct {
	root  string
	lines []string
}

// file is a member of a small package. A path that ends in a slash is a
// directory; link makes a symbolic link.
type file struct {
	path, data, link string
	mode             fs.FileMode
	// owner is "user,group" as in a spec file; empty is root.
	owner string
	// flags are directives of %files, such as "%config(noreplace)".
	flags string
}

// merged maps a path to where it is in a system with /usr merged.
func merged(p string) string {
	for _, top := range []string{"bin", "sbin", "lib", "lib64"} {
		if p == top || strings.HasPrefix(p, top+"/") {
			return "usr/" + p
		}
	}
	return p
}

func (t *tree) list(p string, mode fs.FileMode, owner, flags string) {
	if owner == "" {
		owner = "root,root"
	}
	bits := "-"
	if mode != 0 {
		bits = fmt.Sprintf("%04o", mode)
	}
	t.lines = append(t.lines, strings.TrimSpace(fmt.Sprintf("%s %%attr(%s,%s) \"/%s\"", flags, bits, owner, p)))
}

// parent makes the directory that something is put into, which may be another
// package's.
func (t *tree) parent(p string) (string, error) {
	full := filepath.Join(t.root, p)
	return full, os.MkdirAll(filepath.Dir(full), 0o755)
}

func (t *tree) add(f file) error {
	p := strings.Trim(f.path, "/")
	full, err := t.parent(p)
	if err != nil {
		return err
	}
	switch {
	case f.link != "":
		t.list(p, 0, f.owner, f.flags)
		return os.Symlink(f.link, full)
	case strings.HasSuffix(f.path, "/"):
		mode := f.mode
		if mode == 0 {
			mode = 0o755
		}
		t.list(p, mode, f.owner, "%dir "+f.flags)
		return os.MkdirAll(full, 0o755)
	}
	mode := f.mode
	if mode == 0 {
		mode = 0o644
	}
	t.list(p, mode, f.owner, f.flags)
	return os.WriteFile(full, []byte(f.data), 0o644)
}

// unpack takes the data of a Debian package. Directories that the package
// "filesystem" has are left to it.
func (t *tree) unpack(r io.Reader, conffiles []string) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		original := strings.TrimPrefix(path.Clean(h.Name), "./")
		p := merged(original)
		if original == "." || slices.Contains(systemDirs, p) {
			continue
		}
		full, err := t.parent(p)
		if err != nil {
			return err
		}
		owner := h.Uname + "," + h.Gname
		mode := fs.FileMode(h.Mode & 0o7777)
		switch h.Typeflag {
		case tar.TypeDir:
			t.list(p, mode, owner, "%dir")
			err = os.MkdirAll(full, 0o755)
		case tar.TypeSymlink:
			t.list(p, 0, owner, flagsOf(p, false))
			err = os.Symlink(h.Linkname, full)
		case tar.TypeLink:
			t.list(p, mode, owner, flagsOf(p, false))
			err = os.Link(filepath.Join(t.root, merged(path.Clean(h.Linkname))), full)
		case tar.TypeReg:
			t.list(p, mode, owner, flagsOf(p, slices.Contains(conffiles, "/"+original)))
			err = writeFrom(full, in)
		default:
			err = fmt.Errorf("%s is of type %q", h.Name, h.Typeflag)
		}
		if err != nil {
			return err
		}
	}
}

func flagsOf(p string, config bool) string {
	switch {
	case config:
		return "%config(noreplace)"
	case strings.HasPrefix(p, "usr/share/doc/"), strings.HasPrefix(p, "usr/share/man/"), strings.HasPrefix(p, "usr/share/info/"):
		return "%doc"
	}
	if rest, ok := strings.CutPrefix(p, "usr/share/locale/"); ok {
		lang, _, _ := strings.Cut(rest, "/")
		return "%lang(" + lang + ")"
	}
	return ""
}

func writeFrom(name string, r io.Reader) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	_, err = io.Copy(f, r)
	return err
}
