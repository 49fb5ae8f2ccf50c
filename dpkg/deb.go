package dpkg

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ossify/ossify/dpkg/unxz"
	"github.com/ossify/ossify/pattern"
)

var nameRE = pattern.New(`^[a-z0-9][a-z0-9+.-]*$`)

// maxControl bounds the unpacked control archive of a package, in bytes.
const maxControl = 64 << 20

// Package is one binary package: its control data, and where its files are.
type Package struct {
	// Path is the file of the package.
	Path string
	// Name, Version and Arch as the control file states them.
	Name, Version, Arch string
	// Control is the control file.
	Control Paragraph

	essential  bool
	multiSame  bool
	preDepends []Alternatives
	depends    []Alternatives
	conflicts  []Alternatives
	breaks     []Alternatives
	replaces   []Alternatives
	provides   []Alternatives

	// members are the files of the control archive, in its order.
	members   []controlFile
	conffiles map[string]bool

	file *os.File
	data member
}

// controlFile is a file of the control archive, which goes to dpkg's database.
type controlFile struct {
	name    string
	mode    os.FileMode
	modTime time.Time
	data    []byte
}

// Open reads the control data of the package at path. The caller closes it.
func Open(path string) (_ *Package, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p, err := read(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("read package %s: %w", path, err)
	}
	p.Path, p.file = path, f
	return p, nil
}

// Close closes the package's file.
func (p *Package) Close() error { return p.file.Close() }

// read parses a package (deb(5)): debian-binary, control.tar.*, data.tar.*.
func read(r io.ReaderAt, size int64) (*Package, error) {
	members, err := readAr(r, size)
	if err != nil {
		return nil, err
	}
	// Members whose names begin with an underscore are to be ignored.
	members = slices.DeleteFunc(members, func(m member) bool { return strings.HasPrefix(m.name, "_") })
	if len(members) < 3 || members[0].name != "debian-binary" ||
		!strings.HasPrefix(members[1].name, "control.tar") || !strings.HasPrefix(members[2].name, "data.tar") {
		return nil, errors.New("not a Debian package (debian-binary, control.tar and data.tar are not its members)")
	}
	format := make([]byte, 4)
	if n, _ := members[0].data.ReadAt(format, 0); n < 2 || !bytes.HasPrefix(format, []byte("2.")) {
		return nil, errors.New("package format is not 2")
	}
	p := &Package{data: members[2]}
	if err := p.readControl(members[1]); err != nil {
		return nil, err
	}
	return p, p.parseControl()
}

func (p *Package) readControl(m member) error {
	r, err := decompress(m, 1)
	if err != nil {
		return err
	}
	tr := tar.NewReader(io.LimitReader(r, maxControl))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", m.name, err)
		}
		name := path.Clean("/" + h.Name)[1:]
		if h.Typeflag != tar.TypeReg {
			if h.Typeflag == tar.TypeDir {
				continue
			}
			return fmt.Errorf("%s of %s is not a regular file", name, m.name)
		}
		if strings.Contains(name, "/") {
			return fmt.Errorf("%s holds %s in a subdirectory", m.name, name)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return fmt.Errorf("read %s: %w", m.name, err)
		}
		p.members = append(p.members, controlFile{name, h.FileInfo().Mode().Perm(), h.ModTime, data})
		if name != "control" {
			continue
		}
		paragraphs, err := ParseParagraphs(data)
		if err != nil {
			return err
		}
		if len(paragraphs) != 1 {
			return fmt.Errorf("control file has %d paragraphs, one is expected", len(paragraphs))
		}
		p.Control = paragraphs[0]
	}
}

func (p *Package) parseControl() error {
	if p.Control == nil {
		return errNoControl
	}
	p.Name, p.Version, p.Arch = p.Control.Get("Package"), p.Control.Get("Version"), p.Control.Get("Architecture")
	for name, value := range map[string]string{"Package": p.Name, "Version": p.Version, "Architecture": p.Arch} {
		if value == "" || strings.ContainsAny(value, "/ \n") {
			return fmt.Errorf("control file has no usable field %s", name)
		}
	}
	if !nameRE().MatchString(p.Name) {
		return fmt.Errorf("control file has the package name %q, which is not one", p.Name)
	}
	p.essential = p.Control.Get("Essential") == "yes"
	p.multiSame = p.Control.Get("Multi-Arch") == "same"
	for _, f := range []struct {
		name string
		into *[]Alternatives
	}{
		{"Pre-Depends", &p.preDepends}, {"Depends", &p.depends}, {"Conflicts", &p.conflicts},
		{"Breaks", &p.breaks}, {"Replaces", &p.replaces}, {"Provides", &p.provides},
	} {
		var err error
		if *f.into, err = ParseRelations(p.Control.Get(f.name)); err != nil {
			return fmt.Errorf("package %s, field %s: %w", p.Name, f.name, err)
		}
	}
	p.conffiles = map[string]bool{}
	for line := range strings.Lines(string(p.controlFile("conffiles"))) {
		// A flag before the name (remove-on-upgrade) marks a file that
		// the package does not ship.
		if name := strings.TrimSpace(line); strings.HasPrefix(name, "/") {
			p.conffiles[name] = true
		}
	}
	return nil
}

// controlFile returns a file of the control archive, nil if it is absent.
func (p *Package) controlFile(name string) []byte {
	for _, m := range p.members {
		if m.name == name {
			return m.data
		}
	}
	return nil
}

// infoName is the name of the package's files in dpkg's info directory.
func (p *Package) infoName() string {
	if p.multiSame {
		return p.Name + ":" + p.Arch
	}
	return p.Name
}

// decompress returns the bytes of a member by the suffix of its name.
func decompress(m member, width int) (io.Reader, error) {
	if _, err := m.data.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var r io.Reader
	var err error
	switch suffix := strings.TrimPrefix(path.Ext(m.name), "."); suffix {
	case "tar":
		r = m.data
	case "xz":
		r, err = unxz.NewReader(m.data, m.data.Size(), width)
	case "gz":
		r, err = gzip.NewReader(m.data)
	case "bz2":
		r = bzip2.NewReader(m.data)
	case "zst":
		var dec *zstd.Decoder
		if dec, err = zstd.NewReader(m.data, zstd.WithDecoderConcurrency(1)); err == nil {
			r = dec.IOReadCloser()
		}
	default:
		err = fmt.Errorf("compression %q is not known", suffix)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", m.name, err)
	}
	return r, nil
}
