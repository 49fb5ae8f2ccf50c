package overlay

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ossify/ossify/sparse"
	"golang.org/x/sys/unix"
)

// Names in archives of layers (OCI image specification, layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

const (
	opaqueAttribute = "user.overlay.opaque"
	paxXattr        = "SCHILY.xattr."
	// paxEmpty is for attributes without a value, which pax records cannot have.
	paxEmpty = "OSSIFY.xattr.empty."
)

// Pack writes the upper directory dir as the archive of a layer of an OCI image. The same
// directory gives the same bytes. Times have nanoseconds and holes are zeros in it.
func Pack(dir string, w io.Writer) error {
	p := &packer{dir: dir, out: tar.NewWriter(w), links: map[uint64]string{}, buf: make([]byte, holeBlock)}
	err := filepath.WalkDir(dir, p.add)
	if err == nil {
		err = p.out.Close()
	}
	if err != nil {
		return fmt.Errorf("pack layer: %w", err)
	}
	return nil
}

type packer struct {
	dir   string
	out   *tar.Writer
	links map[uint64]string
	buf   []byte
}

func (p *packer) add(file string, _ fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	name, err := filepath.Rel(p.dir, file)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: file, Err: err}
	}
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()),
		Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	if strings.HasPrefix(path.Base(name), whiteoutPrefix) {
		return fmt.Errorf("%s: a layer of an image cannot have a file whose name begins with %s", name, whiteoutPrefix)
	}
	opaque, err := p.attributes(file, h)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if err := p.out.WriteHeader(h); err != nil || !opaque {
			return err
		}
		return p.empty(path.Join(name, opaqueName), h.ModTime)
	case unix.S_IFREG:
		if first, ok := p.links[st.Ino]; ok && st.Nlink > 1 {
			h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first, nil
			return p.out.WriteHeader(h)
		}
		p.links[st.Ino] = name
		h.Typeflag, h.Size = tar.TypeReg, st.Size
		if err := p.out.WriteHeader(h); err != nil {
			return err
		}
		return p.content(file, st.Size)
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(file); err != nil {
			return err
		}
		return p.out.WriteHeader(h)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
		return p.out.WriteHeader(h)
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return p.empty(path.Join(path.Dir(name), whiteoutPrefix+path.Base(name)), h.ModTime)
		}
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	default:
		return nil // a socket, which no archive can have and which nobody listens at
	}
	h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return p.out.WriteHeader(h)
}

func (p *packer) empty(name string, modified time.Time) error {
	return p.out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: modified, Format: tar.FormatPAX})
}

// attributes puts extended attributes into the header; opaque is the kernel's mark that a directory
// hides the one below it.
func (p *packer) attributes(file string, h *tar.Header) (opaque bool, err error) {
	if n, err := unix.Llistxattr(file, p.buf); n == 0 && err == nil {
		return false, nil
	}
	attrs, err := attributes(file)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return false, err
	}
	for name, value := range attrs {
		if name == opaqueAttribute && value == "y" {
			opaque = true
		}
		switch {
		case strings.HasPrefix(name, "user.overlay."):
		case value == "":
			h.PAXRecords[paxEmpty+name] = "y"
		default:
			h.PAXRecords[paxXattr+name] = value
		}
	}
	return opaque, nil
}

// content writes size bytes of a file; holes are not read.
func (p *packer) content(file string, size int64) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for at := int64(0); at < size; {
		start, end, err := sparse.Data(f, at, size)
		if err != nil {
			return &os.PathError{Op: "find holes", Path: file, Err: err}
		}
		if start < 0 {
			start, end = size, size
		}
		clear(p.buf)
		for ; at < start; at += min(start-at, holeBlock) {
			if _, err := p.out.Write(p.buf[:min(start-at, holeBlock)]); err != nil {
				return err
			}
		}
		data := io.NewSectionReader(f, start, end-start)
		// Only the plain writer and reader have io.CopyBuffer use the buffer.
		if _, err := io.CopyBuffer(struct{ io.Writer }{p.out}, struct{ io.Reader }{data}, p.buf); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// Unpack makes the archive of a layer the content of the upper directory dir, which is empty. Blocks of
// zeros become holes. The archive may come from anywhere: nothing outside of dir is touched.
func Unpack(dir string, r io.Reader) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack layer: %w", err)
	}
	defer root.Close()
	u := &unpacker{root: root, buf: make([]byte, holeBlock), zeros: make([]byte, holeBlock)}
	if err := u.all(tar.NewReader(r)); err != nil {
		return fmt.Errorf("unpack layer: %w", err)
	}
	if u.linked {
		return (&Stack{Upper: dir}).markLinks()
	}
	return nil
}

type unpacker struct {
	root *os.Root
	// parent is the directory of the last entry, open.
	parent     *os.File
	parentName string
	// dirs get their attributes last: filling them changes their times.
	dirs       []*tar.Header
	linked     bool
	buf, zeros []byte
}

func (u *unpacker) all(r *tar.Reader) (err error) {
	defer func() {
		if u.parent != nil {
			err = errors.Join(err, u.parent.Close())
		}
	}()
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := u.entry(h, r); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	for _, h := range slices.Backward(u.dirs) {
		if err := u.finish(h); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	return nil
}

// in opens the directory of a name, which is not the root itself. Names are as Pack writes them.
func (u *unpacker) in(name string) (dir int, base string, err error) {
	if !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
		return 0, "", errors.New("the name leads out of the layer")
	}
	parent := path.Dir(name)
	if u.parent != nil && u.parentName == parent {
		return int(u.parent.Fd()), path.Base(name), nil
	}
	f, err := u.root.OpenFile(parent, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, "", err
	}
	if u.parent != nil {
		u.parent.Close()
	}
	u.parent, u.parentName = f, parent
	return int(f.Fd()), path.Base(name), nil
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	h.Name = path.Clean(h.Name)
	if h.Name == "." {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root of a layer is a directory")
		}
		u.dirs = append(u.dirs, h)
		return nil
	}
	// A few bytes could stand for exabytes of zeros.
	if h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.size"] != "" || h.PAXRecords["GNU.sparse.map"] != "" {
		return errors.New("a layer of an image has no sparse files")
	}
	dir, base, err := u.in(h.Name)
	if err != nil {
		return err
	}
	if rest, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return u.whiteout(dir, rest, h.ModTime)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		u.dirs = append(u.dirs, h)
		return unix.Mkdirat(dir, base, 0o700)
	case tar.TypeReg:
		if err := u.file(dir, base, h.Size, content); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, dir, base); err != nil {
			return err
		}
	case tar.TypeLink:
		u.linked = true
		return u.root.Link(path.Clean(h.Linkname), h.Name)
	case tar.TypeFifo:
		if err := unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
	default:
		return fmt.Errorf("entries of type %q are not unpacked: device nodes belong into the side record", h.Typeflag)
	}
	return u.finish(h)
}

// whiteout hides what lies below: a name, or all of a directory.
func (u *unpacker) whiteout(dir int, name string, modified time.Time) error {
	if whiteoutPrefix+name == opaqueName {
		return unix.Fsetxattr(dir, opaqueAttribute, []byte("y"), 0)
	}
	if name == "" || name == "." || name == ".." || strings.HasPrefix(name, whiteoutPrefix) {
		return errors.New("this hides nothing")
	}
	if err := unix.Mknodat(dir, name, unix.S_IFCHR, 0); err != nil {
		return err
	}
	return setTime(dir, name, modified)
}

func setTime(dir int, name string, modified time.Time) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(modified.UnixNano())}
	if err := unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

func (u *unpacker) file(dir int, base string, size int64, content io.Reader) (err error) {
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer func() { err = errors.Join(err, f.Close()) }()
	if size >= holeBlock {
		if err := f.Truncate(size); err != nil {
			return err
		}
	}
	for at := int64(0); at < size; {
		n, err := io.ReadFull(content, u.buf[:min(holeBlock, size-at)])
		if err != nil {
			return err
		}
		if size < holeBlock || string(u.buf[:n]) != string(u.zeros[:n]) {
			if _, err := f.WriteAt(u.buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return nil
}

// finish gives a file its owner, mode, attributes and time, in the order in which one does not
// take away another: chown(2) takes setuid bits and capabilities.
func (u *unpacker) finish(h *tar.Header) error {
	var dir int
	base := "."
	var err error
	if h.Name == "." {
		var f *os.File
		if f, err = u.root.Open("."); err == nil {
			defer f.Close()
			dir = int(f.Fd())
		}
	} else {
		dir, base, err = u.in(h.Name)
	}
	if err != nil {
		return err
	}
	if err := unix.Fchownat(dir, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown to %d:%d: %w", h.Uid, h.Gid, err)
	}
	// It is not a symbolic link, as it was made here and nobody else has the directory.
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(dir, base, uint32(h.Mode)&0o7777, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if empty, is := strings.CutPrefix(key, paxEmpty); is {
			name, ok, value = empty, true, ""
		}
		if !ok || strings.HasPrefix(name, "user.overlay.") || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		if err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir, base), name, []byte(value), 0); err != nil {
			return fmt.Errorf("set attribute %q: %w", name, err)
		}
	}
	return setTime(dir, base, h.ModTime)
}
