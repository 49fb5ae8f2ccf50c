package wire

import (
	"encoding/binary"
	"iter"
	"path"
	"strings"
	"syscall"
)

// The list of LABEL is a sealed memfd of entries, one after the other:
//
//	path u16 and bytes, label u16 and bytes, capability u8 and bytes, flags u8
//
// where a number before bytes is how many they are.

// MaxLabels is the largest list of entries, in bytes.
const MaxLabels = 32 << 20

// Entry is what a mount of a user namespace could not store at one path.
type Entry struct {
	// Path is relative to the filesystem's root and clean; "." is the root.
	Path string
	// SELinux is a context without its NUL, "" for none.
	SELinux string
	// Capability is a value of security.capability of version 2, "" for none.
	Capability string
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
	local := e.Path != "" && e.Path == path.Clean(e.Path) && !path.IsAbs(e.Path) && e.Path != ".." && !strings.HasPrefix(e.Path, "../")
	switch {
	case !local || len(e.Path) > 4095 || strings.Contains(e.Path, "\x00"):
		return Errorf(syscall.EINVAL, "%.200q is no relative clean path", e.Path)
	case len(e.SELinux) > 4096 || strings.ContainsAny(e.SELinux, "\x00\n"):
		return Errorf(syscall.EINVAL, "%.200q has no SELinux context", e.Path)
	case e.Flags&^(Append|Immutable) != 0:
		return Errorf(syscall.EINVAL, "%.200q has unknown inode flags %#x", e.Path, e.Flags)
	case e.SELinux == "" && e.Capability == "" && e.Flags == 0:
		return Errorf(syscall.EINVAL, "%.200q has nothing to store", e.Path)
	}
	// struct vfs_cap_data: the version with a bit for "effective", and two pairs
	// of sets.
	const version, effective = 0x02000000, 1
	if c := []byte(e.Capability); len(c) > 0 && (len(c) != 20 || binary.LittleEndian.Uint32(c)&^effective != version) {
		return Errorf(syscall.EINVAL, "%.200q has no capabilities of version 2", e.Path)
	}
	return nil
}

// AppendEntry appends an entry that Check has accepted to a list.
func AppendEntry(list []byte, e Entry) []byte {
	list = append(binary.LittleEndian.AppendUint16(list, uint16(len(e.Path))), e.Path...)
	list = append(binary.LittleEndian.AppendUint16(list, uint16(len(e.SELinux))), e.SELinux...)
	list = append(append(list, uint8(len(e.Capability))), e.Capability...)
	return append(list, e.Flags)
}

// Labels goes through a list. It ends with the first error.
func Labels(list []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		rest := list
		if len(list) > MaxLabels {
			yield(Entry{}, Errorf(syscall.EINVAL, "a list of labels has at most %d bytes, not %d", MaxLabels, len(list)))
			return
		}
		for len(rest) > 0 {
			var e Entry
			ok := field(&rest, 2, &e.Path) && field(&rest, 2, &e.SELinux) && field(&rest, 1, &e.Capability) && len(rest) > 0
			if !ok {
				yield(e, Errorf(syscall.EINVAL, "a list of labels ends in the middle of an entry"))
				return
			}
			e.Flags, rest = rest[0], rest[1:]
			err := e.Check()
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// field cuts a field, with a length of width bytes before it, off rest.
func field(rest *[]byte, width int, into *string) bool {
	if len(*rest) < width {
		return false
	}
	n := int((*rest)[0])
	if width == 2 {
		n |= int((*rest)[1]) << 8
	}
	if len(*rest)-width < n {
		return false
	}
	*into, *rest = string((*rest)[width:width+n]), (*rest)[width+n:]
	return true
}
