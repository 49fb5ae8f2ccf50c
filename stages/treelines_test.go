package stages

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/ossify/ossify/record"
	"golang.org/x/sys/unix"
)

// Limits of testdata/README.md: longer content is shown as a checksum, later
// times are not shown.
const (
	inlineContent = 600
	recentTime    = 1000000000
)

// What a side record has of a path stands in lines as if these were attributes.
const (
	labelAttr = "security.selinux"
	flagsAttr = "flags"
)

// anyContent stands for content that a case does not compare.
const anyContent = "..."

// treeLine is one line of the language that testdata/README.md describes.
type treeLine struct {
	path string
	// kind is dir, file, link, fifo, char, block, same, archive, deb, rpm or
	// repository.
	kind     string
	mode     uint32
	uid, gid int
	// target is that of a link, or the other name of a hard link.
	target string
	// content is as it stands in the line: quoted, sha256:..., archive, ...
	content string
	// attrs are NAME="VALUE" in order, with names of owners for archives.
	attrs []string
	// mtime is in seconds since 1970, or -1.
	mtime int64
	// immutable is to be set on the file itself.
	immutable bool
}

func (l treeLine) String() string {
	var words []string
	switch l.kind {
	case "same":
		words = []string{"same as", l.target}
	case "link":
		words = []string{"link", l.target, fmt.Sprintf("%d:%d", l.uid, l.gid)}
	default:
		words = []string{l.kind, fmt.Sprintf("%04o", l.mode), fmt.Sprintf("%d:%d", l.uid, l.gid)}
	}
	if l.content != "" {
		words = append(words, l.content)
	}
	words = append(words, l.attrs...)
	if l.mtime >= 0 && l.mtime < recentTime && l.kind != "same" {
		words = append(words, fmt.Sprintf("@%d", l.mtime))
	}
	return l.path + ": " + strings.Join(words, " ")
}

// words splits at spaces, but not within quotes.
func words(text string) ([]string, error) {
	var out []string
	for text = strings.TrimLeft(text, " "); text != ""; text = strings.TrimLeft(text, " ") {
		end := 0
		for end < len(text) && text[end] != ' ' {
			if text[end] != '"' {
				end++
				continue
			}
			quoted, err := strconv.QuotedPrefix(text[end:])
			if err != nil {
				return nil, fmt.Errorf("quotes of %s: %w", text[end:], err)
			}
			end += len(quoted)
		}
		out, text = append(out, text[:end]), text[end:]
	}
	return out, nil
}

// parseTreeLine reads one line of "before" or of an archive.
func parseTreeLine(text string) (treeLine, error) {
	path, rest, ok := strings.Cut(text, ": ")
	if !ok {
		return treeLine{}, errors.New(`no ": " after the path`)
	}
	l := treeLine{path: path, mtime: -1}
	fields, err := words(rest)
	if err != nil {
		return l, err
	}
	if len(fields) == 1 && fields[0] == "deb" {
		l.kind = "deb"
		return l, nil
	}
	if len(fields) == 1 && fields[0] == "repository" {
		l.kind = "repository"
		return l, nil
	}
	if fields[0] == "rpm" && (len(fields) == 1 || len(fields) == 2 && fields[1] == "signed") {
		l.kind, l.content = "rpm", strings.Join(fields[1:], "")
		return l, nil
	}
	if len(fields) == 3 && fields[0] == "same" && fields[1] == "as" {
		l.kind, l.target = "same", fields[2]
		return l, nil
	}
	if len(fields) < 3 {
		return l, errors.New("expected: KIND MODE UID:GID ..., link TARGET UID:GID, same as PATH, or deb")
	}
	l.kind = fields[0]
	if l.kind == "link" {
		l.target = fields[1]
	} else {
		mode, err := strconv.ParseUint(fields[1], 8, 16)
		if err != nil {
			return l, fmt.Errorf("mode: %w", err)
		}
		l.mode = uint32(mode)
	}
	if _, err := fmt.Sscanf(fields[2], "%d:%d", &l.uid, &l.gid); err != nil {
		return l, fmt.Errorf("owner %q: %w", fields[2], err)
	}
	fields = fields[3:]
	if l.kind == "char" || l.kind == "block" {
		if len(fields) == 0 {
			return l, errors.New("a device needs MAJOR:MINOR")
		}
		l.content, fields = fields[0], fields[1:]
	}
	if l.kind == "file" {
		if len(fields) == 0 {
			return l, errors.New("a file needs content")
		}
		l.content, fields = fields[0], fields[1:]
		if (l.content == "archive" || l.content == "zeros") && len(fields) > 0 {
			l.content, fields = l.content+" "+fields[0], fields[1:]
		}
	}
	for _, field := range fields {
		if field[0] != '@' {
			l.attrs = append(l.attrs, field)
		} else if l.mtime, err = strconv.ParseInt(field[1:], 10, 64); err != nil {
			return l, fmt.Errorf("time: %w", err)
		}
	}
	return l, nil
}

// device returns the device node of a line that is one.
func (l treeLine) device() (record.Device, bool) {
	d := record.Device{Mode: l.mode, UID: uint32(l.uid), GID: uint32(l.gid)}
	switch l.kind {
	case "char":
		d.Kind = 'c'
	case "block":
		d.Kind = 'b'
	default:
		return d, false
	}
	_, err := fmt.Sscanf(l.content, "%d:%d", &d.Major, &d.Minor)
	return d, err == nil
}

// showContent is the form in which content stands in a line.
func showContent(data []byte) string {
	if len(data) <= inlineContent && utf8.Valid(data) && !strings.ContainsRune(string(data), 0) {
		return strconv.Quote(string(data))
	}
	if len(bytes.TrimLeft(data, "\x00")) == 0 {
		return fmt.Sprintf("zeros %d", len(data))
	}
	sum := sha256.Sum256(data)
	return fmt.Sprintf("sha256:%x %d bytes", sum[:8], len(data))
}

// splitAttr reads NAME="VALUE".
func splitAttr(attr string) (name, value string, err error) {
	name, quoted, ok := strings.Cut(attr, "=")
	if !ok {
		return "", "", fmt.Errorf("extended attribute %s is not NAME=\"VALUE\"", attr)
	}
	value, err = strconv.Unquote(quoted)
	return name, value, err
}

// place makes the entry at path, with the directories that lead to it.
// Archives and packages are not its business.
func (l treeLine) place(path, sameAs string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	var err error
	switch l.kind {
	case "dir":
		err = os.MkdirAll(path, 0o755)
	case "file":
		err = l.write(path)
	case "link":
		err = os.Symlink(l.target, path)
	case "fifo":
		err = unix.Mkfifo(path, 0o600)
	case "same":
		return os.Link(sameAs, path)
	default:
		err = fmt.Errorf("cannot make a %q", l.kind)
	}
	if err != nil {
		return err
	}
	return l.dress(path)
}

// write makes a file of quoted content or of zeros, which it leaves out.
func (l treeLine) write(path string) error {
	if size, ok := strings.CutPrefix(l.content, "zeros "); ok {
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil {
			return fmt.Errorf("number of zeros: %w", err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
		return os.Truncate(path, n)
	}
	content, err := strconv.Unquote(l.content)
	if err != nil {
		return fmt.Errorf("content %s: %w", l.content, err)
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// dress sets owner, mode and extended attributes.
func (l treeLine) dress(path string) error {
	if err := os.Lchown(path, l.uid, l.gid); err != nil {
		return err
	}
	if l.kind != "link" {
		if err := unix.Chmod(path, l.mode); err != nil {
			return err
		}
	}
	for _, attr := range l.attrs {
		name, value, err := splitAttr(attr)
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if !l.immutable {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, record.Immutable)
}

// setTime sets the time of last change of an entry, of a link itself.
func (l treeLine) setTime(path string) error {
	times := []unix.Timespec{{Sec: l.mtime}, {Sec: l.mtime}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
}

// snapshot returns what is below root, sorted by path, with prefix before each
// path. show makes the content of a file; the root itself has the path "/".
func snapshot(root, prefix string, show func(path string, data []byte) (string, error)) ([]treeLine, error) {
	var lines []treeLine
	seen := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		below, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		name := prefix + filepath.Clean("/"+below)
		l := treeLine{path: name, mode: stat.Mode & 0o7777, uid: int(stat.Uid), gid: int(stat.Gid), mtime: stat.Mtim.Sec}
		if first, ok := seen[stat.Ino]; ok && !info.IsDir() {
			lines = append(lines, treeLine{path: name, kind: "same", target: first})
			return nil
		}
		seen[stat.Ino] = name
		switch stat.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			l.kind = "dir"
		case unix.S_IFLNK:
			l.kind = "link"
			if l.target, err = os.Readlink(path); err != nil {
				return err
			}
		case unix.S_IFIFO:
			l.kind = "fifo"
		case unix.S_IFCHR, unix.S_IFBLK:
			l.kind = map[bool]string{true: "char", false: "block"}[stat.Mode&unix.S_IFMT == unix.S_IFCHR]
			l.content = fmt.Sprintf("%d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
		case unix.S_IFREG:
			l.kind = "file"
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if l.content, err = show(path, data); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		default:
			l.kind = "special"
		}
		if l.attrs, err = xattrs(path); err != nil {
			return err
		}
		lines = append(lines, l)
		return nil
	})
	sort.SliceStable(lines, func(i, j int) bool { return lines[i].path < lines[j].path })
	return lines, err
}

// xattrs returns NAME="VALUE" of an entry, sorted, without labels unless this
// machine has none of its own.
func xattrs(path string) ([]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			return nil, nil
		}
		return nil, err
	}
	var out []string
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || name == labelAttr && !realLabels {
			continue
		}
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		if name == labelAttr {
			value, size = bytes.TrimRight(value[:size], "\x00"), len(bytes.TrimRight(value[:size], "\x00"))
		}
		out = append(out, name+"="+strconv.Quote(string(value[:size])))
	}
	sort.Strings(out)
	if immutable(path) && realLabels {
		out = append(out, flagsAttr+`="i"`)
	}
	return out, nil
}

// immutable says whether a file or directory is.
func immutable(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	return err == nil && flags&record.Immutable != 0
}
