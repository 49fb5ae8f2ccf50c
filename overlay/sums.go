package overlay

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ossify/ossify/sparse"
	"golang.org/x/sys/unix"
)

// Sums of an upper directory say what is in it, one line for each path:
//
//	MODE UID GID SECONDS.NANOSECONDS DEVICE ATTRIBUTES CONTENT PATH [TARGET]
//
// MODE is octal, with the type; PATH and TARGET are quoted. ATTRIBUTES and CONTENT are
// hexadecimal sha256 or "-"; that of a file with holes has an "h" before it and is of its blocks
// that are not zero, each with its place before it.
type sum struct {
	mode                        uint32
	owner, time, device         string
	attributes, content, target string
}

// holeBlock is the size of the blocks in which zeros are left out, in bytes.
const holeBlock = 64 << 10

// WriteSums writes the sums of the upper directory dir.
func WriteSums(dir string, w io.Writer) error {
	out := bufio.NewWriter(w)
	s := newSummer(dir)
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		l, err := s.sum(path, nil)
		if err == nil {
			_, err = fmt.Fprintf(out, "%o %s %s %s %s %s %q", l.mode, l.owner, l.time, l.device, l.attributes, l.content, s.name(path))
		}
		if err == nil && l.target != "" {
			_, err = fmt.Fprintf(out, " %q", l.target)
		}
		if err == nil {
			err = out.WriteByte('\n')
		}
		return err
	})
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fmt.Errorf("sum up layer: %w", err)
	}
	return nil
}

// CheckSums calls found for each path of the upper directory dir that is not as its sums say,
// in their order, with what is wrong about it. The error is one of reading.
func CheckSums(dir string, sums io.Reader, found func(path, what string)) error {
	want, err := readSums(sums)
	if err != nil {
		return err
	}
	s := newSummer(dir)
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		name := s.name(path)
		if err != nil {
			found(name, "cannot be read: "+err.Error())
			return nil
		}
		w := want[name]
		if w == nil {
			found(name, "was not there")
			return nil
		}
		delete(want, name)
		l, err := s.sum(path, w)
		if err != nil {
			found(name, "cannot be read: "+err.Error())
			return nil
		}
		if what := l.differs(w); what != "" {
			found(name, what)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("check layer: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		found(name, "is gone")
	}
	return nil
}

// differs says what of l is not as in want, "" for nothing.
func (l *sum) differs(want *sum) string {
	var parts []string
	part := func(what, got, want string) {
		if got != want {
			parts = append(parts, fmt.Sprintf("%s is %s, was %s", what, got, want))
		}
	}
	part("mode", strconv.FormatUint(uint64(l.mode), 8), strconv.FormatUint(uint64(want.mode), 8))
	part("owner", l.owner, want.owner)
	part("time", l.time, want.time)
	part("device", l.device, want.device)
	part("target", strconv.Quote(l.target), strconv.Quote(want.target))
	if l.attributes != want.attributes {
		parts = append(parts, "attributes differ")
	}
	if l.content != want.content {
		parts = append(parts, "content differs")
	}
	return strings.Join(parts, "; ")
}

func readSums(r io.Reader) (map[string]*sum, error) {
	sums := map[string]*sum{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<10) // two quoted paths of PATH_MAX and the rest
	for lines.Scan() {
		var l sum
		var uid, gid, name string
		n, err := fmt.Sscanf(lines.Text(), "%o %s %s %s %s %s %s %q %q", &l.mode, &uid, &gid, &l.time, &l.device, &l.attributes, &l.content, &name, &l.target)
		if err != nil && (n != 8 || l.mode&unix.S_IFMT == unix.S_IFLNK) {
			return nil, fmt.Errorf("sums of a layer: line %q: %w", lines.Text(), err)
		}
		l.owner = uid + " " + gid
		sums[name] = &l
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("sums of a layer: %w", err)
	}
	return sums, nil
}

// summer makes the sums of one directory; seen has those of hard links, by inode.
type summer struct {
	dir  string
	seen map[uint64]string
	// buf is for what is read, holeBlock bytes long.
	buf []byte
}

func newSummer(dir string) *summer {
	return &summer{dir: dir, seen: map[uint64]string{}, buf: make([]byte, holeBlock)}
}

func (s *summer) name(path string) string { return "/" + strings.TrimPrefix(path[len(s.dir):], "/") }

// sum looks at a path. The content is read in the way that want has, if it is not nil.
func (s *summer) sum(path string, want *sum) (*sum, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	l := &sum{
		mode: st.Mode, owner: fmt.Sprintf("%d %d", st.Uid, st.Gid), time: fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec),
		device: "-", attributes: "-", content: "-",
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		holes := st.Blocks*512 < st.Size
		if want != nil {
			holes = strings.HasPrefix(want.content, "h")
		}
		if l.content = s.seen[st.Ino]; l.content == "" {
			if l.content, err = s.contentSum(path, st.Size, holes); err != nil {
				return nil, err
			}
		}
		if st.Nlink > 1 {
			s.seen[st.Ino] = l.content
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		l.device = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case unix.S_IFLNK:
		if l.target, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	l.attributes, err = s.attributeSum(path)
	return l, err
}

// unsummed are attributes that the kernel keeps for itself.
var unsummed = []string{"user.overlay.origin", "user.overlay.impure", "user.overlay.uuid", "user.overlay.nlink"}

func (s *summer) attributeSum(path string) (string, error) {
	if n, err := unix.Llistxattr(path, s.buf); n == 0 && err == nil {
		return "-", nil
	}
	attrs, err := attributes(path)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return "", err
	}
	for _, name := range unsummed {
		delete(attrs, name)
	}
	if len(attrs) == 0 {
		return "-", nil
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		fmt.Fprintf(h, "%s %d:%s", name, len(attrs[name]), attrs[name])
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (s *summer) contentSum(path string, size int64, holes bool) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if !holes {
		// Only the plain reader has io.CopyBuffer use the buffer.
		if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, s.buf); err != nil {
			return "", err
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	}
	fmt.Fprintf(h, "%d\n", size)
	block, zero := s.buf, make([]byte, holeBlock)
	for at := int64(0); at < size; {
		start, end, err := sparse.Data(f, at, size)
		if err != nil {
			return "", &os.PathError{Op: "find holes", Path: path, Err: err}
		}
		if start < 0 {
			break
		}
		for at = start / holeBlock * holeBlock; at < end; at += holeBlock {
			n, err := f.ReadAt(block, at)
			if err != nil && !errors.Is(err, io.EOF) {
				return "", err
			}
			if !bytes.Equal(block[:n], zero[:n]) {
				fmt.Fprintf(h, "%d\n", at)
				h.Write(block[:n])
			}
		}
	}
	return "h" + hex.EncodeToString(h.Sum(nil)), nil
}
