package record

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Inode flags as FS_IOC_SETFLAGS has them (ioctl_iflags(2)). Others can be set
// in a user namespace.
const (
	Append    = 0x20
	Immutable = 0x10
)

// MaxSize is the largest encoded record, in bytes.
const MaxSize = 64 << 20

// Entry is what is recorded of one path.
type Entry struct {
	// Label is an SELinux context without a NUL, "" for none.
	Label string
	// Flags are Append and Immutable.
	Flags uint32
	// Device is a device node that the tree has not got.
	Device Device
}

// Device is a device node, or none if its Kind is 0.
type Device struct {
	// Kind is 'c' or 'b'.
	Kind         byte
	Major, Minor uint32
	// Mode are the twelve bits of chmod(2).
	Mode     uint32
	UID, GID uint32
}

// Record holds entries by path: absolute, clean, as seen from the tree.
type Record map[string]Entry

// Open reads the record in a file; "" and a file that is not there are an empty one.
func Open(name string) (Record, error) {
	if name == "" {
		return Record{}, nil
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read side record: %w", err)
	}
	return Decode(bytes.NewReader(data))
}

// Decode reads a record. It refuses what Encode does not write.
func Decode(r io.Reader) (Record, error) {
	out := Record{}
	lines := bufio.NewScanner(io.LimitReader(r, MaxSize+1))
	lines.Buffer(nil, 1<<20)
	size := 0
	for n := 1; lines.Scan(); n++ {
		if size += len(lines.Bytes()) + 1; size > MaxSize {
			return nil, fmt.Errorf("side record: larger than %d bytes", MaxSize)
		}
		name, e, err := parse(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("side record: line %d: %w", n, err)
		}
		out[name] = e
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("side record: %w", err)
	}
	return out, nil
}

// parse reads one line: "PATH", then selinux="LABEL", device=KIND:MAJOR:MINOR:MODE:UID:GID
// and flags=LETTERS, of which each may be missing. The quotes are Go's, for any byte can be in a name.
func parse(line string) (name string, e Entry, err error) {
	quoted, err := strconv.QuotedPrefix(line)
	if err != nil {
		return "", e, fmt.Errorf("%.200q does not begin with a quoted path", line)
	}
	if name, err = strconv.Unquote(quoted); err != nil || !path.IsAbs(name) || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return "", e, fmt.Errorf("%.200s is no absolute clean path", quoted)
	}
	rest := line[len(quoted):]
	if after, ok := strings.CutPrefix(rest, " selinux="); ok {
		quoted, err := strconv.QuotedPrefix(after)
		if err == nil {
			e.Label, err = strconv.Unquote(quoted)
		}
		if err != nil || e.Label == "" || len(e.Label) > 4096 || strings.ContainsAny(e.Label, "\x00\n") {
			return "", e, fmt.Errorf("%.200q has no SELinux context", name)
		}
		rest = after[len(quoted):]
	}
	if after, ok := strings.CutPrefix(rest, " device="); ok {
		text, _, _ := strings.Cut(after, " ")
		if e.Device, err = parseDevice(text); err != nil {
			return "", e, fmt.Errorf("%.200q: %w", name, err)
		}
		rest = after[len(text):]
	}
	if letters, ok := strings.CutPrefix(rest, " flags="); ok {
		for _, letter := range letters {
			switch letter {
			case 'a':
				e.Flags |= Append
			case 'i':
				e.Flags |= Immutable
			default:
				return "", e, fmt.Errorf("%.200q has an unknown inode flag %q", name, letter)
			}
		}
		rest = ""
	}
	if rest != "" || e == (Entry{}) {
		return "", e, fmt.Errorf("%.200q has nothing or something unknown recorded: %.200q", name, rest)
	}
	return name, e, nil
}

// String is the form of a device in an encoded record.
func (d Device) String() string {
	return fmt.Sprintf("%c:%d:%d:%04o:%d:%d", d.Kind, d.Major, d.Minor, d.Mode, d.UID, d.GID)
}

func parseDevice(text string) (Device, error) {
	var d Device
	_, err := fmt.Sscanf(text, "%c:%d:%d:%o:%d:%d", &d.Kind, &d.Major, &d.Minor, &d.Mode, &d.UID, &d.GID)
	if err != nil || d.Kind != 'c' && d.Kind != 'b' || d.Mode > 0o7777 || d.String() != text {
		return Device{}, fmt.Errorf("%.200q is no device", text)
	}
	return d, nil
}

// Encode writes the record, one line a path; equal records give equal bytes.
func (r Record) Encode(w io.Writer) error {
	out := bufio.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(r)) {
		e := r[name]
		if e == (Entry{}) {
			continue
		}
		fmt.Fprintf(out, "%q", name)
		if e.Label != "" {
			fmt.Fprintf(out, " selinux=%q", e.Label)
		}
		if e.Device.Kind != 0 {
			fmt.Fprintf(out, " device=%s", e.Device)
		}
		if e.Flags != 0 {
			fmt.Fprintf(out, " flags=%s", letters(e.Flags))
		}
		fmt.Fprintln(out)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write side record: %w", err)
	}
	return nil
}

// letters writes flags as chattr(1) does.
func letters(flags uint32) string {
	text := ""
	if flags&Append != 0 {
		text += "a"
	}
	if flags&Immutable != 0 {
		text += "i"
	}
	return text
}

// SetLabel notes the label of a path; "" takes it away.
func (r Record) SetLabel(name, label string) {
	e := r[name]
	e.Label = label
	r.set(name, e)
}

// SetFlags notes that the flags of mask are those of flags.
func (r Record) SetFlags(name string, flags, mask uint32) {
	e := r[name]
	e.Flags = e.Flags&^mask | flags&mask
	r.set(name, e)
}

// SetDevice notes a device node that the tree cannot have.
func (r Record) SetDevice(name string, d Device) {
	e := r[name]
	e.Device = d
	r.set(name, e)
}

func (r Record) set(name string, e Entry) {
	if e == (Entry{}) {
		delete(r, name)
		return
	}
	r[name] = e
}

// Devices returns the device nodes that count: those at whose place the tree, a
// directory, has nothing, in a directory of the tree.
func (r Record) Devices(tree string) map[string]Device {
	out := map[string]Device{}
	for name, e := range r {
		if e.Device.Kind == 0 {
			continue
		}
		_, err := os.Lstat(filepath.Join(tree, name))
		dir, dirErr := os.Lstat(filepath.Join(tree, path.Dir(name)))
		if errors.Is(err, os.ErrNotExist) && dirErr == nil && dir.IsDir() {
			out[name] = e.Device
		}
	}
	return out
}

// Below returns the entries of dir and of what is below it, with paths as seen
// from dir.
func (r Record) Below(dir string) Record {
	out := Record{}
	for name, e := range r {
		if name == dir {
			out["/"] = e
		} else if rest, ok := strings.CutPrefix(name, strings.TrimSuffix(dir, "/")+"/"); ok {
			out["/"+rest] = e
		}
	}
	return out
}
