package wire

import (
	"bytes"
	"encoding/binary"
	"iter"
	"strings"
	"syscall"
)

// The list of LABEL is a sealed memfd of entries, one after the other:
//
//	path NUL, label NUL, capability [20]byte, flags u8
//
// where an empty label and a capability of zeros are none.

// MaxLabels is the largest list of entries, in bytes.
const MaxLabels = 32 << 20

// Entry is what a mount of a user namespace could not store at one path.
type Entry struct {
	// Path is relative to the filesystem's root and clean; "." is the root.
	Path string
	// SELinux is a context without its NUL, "" for none.
	SELinux string
	// Capability is a value of security.capability of version 2, zeros for none.
	Capability [20]byte
	// Flags are Append and Immutable.
	Flags uint8
}

// Flags of entries, as FS_IOC_SETFLAGS has them.
const (
	Append    = 0x20
	Immutable = 0x10
)

// Check returns an *Error if the entry could do anything else than it is for.
func (e Entry) Check() error {
	// struct vfs_cap_data: the version with a bit for "effective", and two pairs
	// of sets.
	const version, effective = 0x02000000, 1
	switch {
	case !local(e.Path) || len(e.Path) > 4095 || strings.Contains(e.Path, "\x00"):
		return Errorf(syscall.EINVAL, "%.200q is no relative clean path", e.Path)
	case len(e.SELinux) > 4096 || strings.ContainsAny(e.SELinux, "\x00\n"):
		return Errorf(syscall.EINVAL, "%.200q has no SELinux context", e.Path)
	case e.Flags&^(Append|Immutable) != 0:
		return Errorf(syscall.EINVAL, "%.200q has unknown inode flags %#x", e.Path, e.Flags)
	case e.Capability != [20]byte{} && binary.LittleEndian.Uint32(e.Capability[:])&^effective != version:
		return Errorf(syscall.EINVAL, "%.200q has no capabilities of version 2", e.Path)
	}
	return nil
}

// AppendEntry appends an entry that Check has accepted to a list.
func AppendEntry(list []byte, e Entry) []byte {
	list = append(append(list, e.Path...), 0)
	list = append(append(list, e.SELinux...), 0)
	return append(append(list, e.Capability[:]...), e.Flags)
}

// Labels goes through a list. It ends with the first error.
func Labels(list []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for more := list; len(more) > 0; {
			path, rest, _ := bytes.Cut(more, []byte{0})
			context, rest, _ := bytes.Cut(rest, []byte{0})
			if len(rest) < 21 {
				yield(Entry{}, Errorf(syscall.EINVAL, "a list of labels ends in the middle of an entry"))
				return
			}
			e := Entry{string(path), string(context), [20]byte(rest), rest[20]}
			more = rest[21:]
			if err := e.Check(); !yield(e, err) || err != nil {
				return
			}
		}
	}
}
