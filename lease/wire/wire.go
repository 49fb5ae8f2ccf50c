package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"syscall"
)

const (
	// Version is the first byte of every frame.
	Version = 1
	// MaxFrame is the largest frame, in bytes.
	MaxFrame = 4096
	// MaxText is the longest text of a reply, in bytes.
	MaxText = 3072
	// MaxFiles is the largest number of descriptors beside a frame.
	MaxFiles = 2
)

// Error is what a request came to if it failed.
type Error struct {
	// Errno is for programs; errors.Is finds it.
	Errno syscall.Errno
	// Text is for people.
	Text string
}

func (e *Error) Error() string { return e.Text }

// Unwrap returns the error number.
func (e *Error) Unwrap() error { return e.Errno }

// Errorf makes an Error.
func Errorf(errno syscall.Errno, format string, args ...any) *Error {
	return &Error{errno, fmt.Sprintf(format, args...)}
}

// In says what an error, if there is one, happened in.
func In(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Request is the body of a request: a pointer to one of the structs below.
type Request interface {
	// check returns an *Error if the values make no sense for anybody.
	check() error
}

// The verbs, in the order of their numbers.
type (
	// Create asks for a lease of so many bytes.
	Create struct{ Size uint64 }

	// Partition asks for a part of the lease's bytes as a device of its own; the
	// reply's value is its index.
	Partition struct {
		Size uint64
		// SectorSize is 512 or 4096.
		SectorSize uint32
	}

	// Mkfs asks for a filesystem that fills the partition.
	Mkfs struct {
		Index uint8
		Type  Filesystem
		// Set are the options that are given, On those of them that are true.
		Set, On Options
		// Groups is the number of allocation groups of xfs; 0 leaves it open.
		Groups uint32
		UUID   [16]byte
		// Label ends with the first NUL.
		Label [256]byte
	}

	// Mount asks for a mount of the filesystem.
	Mount struct {
		Index uint8
		// ReadOnly is 0 or 1.
		ReadOnly uint8
		// UIDs and GIDs are the map of ids; a range of no ids is none.
		UIDs, GIDs [MaxRanges]Range
		// Subvolume of btrfs ends with the first NUL; "" is the filesystem's own.
		Subvolume [1024]byte
	}

	// Label asks for what the side record has, in a list (see Labels) beside
	// the request: one sealed memfd.
	Label struct{ Index uint8 }

	// Sync asks for everything to be written out.
	Sync struct{ Index uint8 }

	// Export asks for the partition's bytes. Afterwards it can no longer be
	// mounted.
	Export struct{ Index uint8 }

	// Close ends the lease.
	Close struct{}

	// Status asks for a Table, which comes as JSON in a memfd.
	Status struct{}
)

// MaxRanges is the largest number of ranges in a map of ids.
const MaxRanges = 8

// Range says that the ids from Disk on in the filesystem are those from Host on of
// the machine.
type Range struct{ Disk, Host, Count uint32 }

// Filesystem is a type of filesystem.
type Filesystem uint8

// The filesystems that can be made and mounted.
const (
	Ext4 Filesystem = iota + 1
	XFS
	Btrfs
)

// String is the type's name, as mount(8) has it.
func (f Filesystem) String() string {
	return map[Filesystem]string{Ext4: "ext4", XFS: "xfs", Btrfs: "btrfs"}[f]
}

// Options of filesystems that are true, false or left to mkfs.
type Options uint16

// Ext4's options are those of org.osbuild.mkfs.ext4. MetadataDup is btrfs':
// metadata is stored twice, or if false once.
const (
	LazyInit Options = 1 << iota
	Verity
	OrphanFile
	MetadataCsumSeed
	MetadataDup
)

// Table is what Status tells: what a user can have, and the leases of the caller, or for
// root of all.
type Table struct {
	Quota  uint64 // bytes
	Limit  int    // leases
	Leases []Lease
}

// Lease is one of a Table. Sizes are in bytes. What was dropped is still in use.
type Lease struct {
	Number, Size, Used, Seconds uint64
	User                        string
	Dropped                     bool
}

// requests are empty ones, in the order of their verbs' numbers, from 1.
func requests() []Request {
	return []Request{&Create{}, &Partition{}, &Mkfs{}, &Mount{}, &Label{}, &Sync{}, &Export{}, &Close{}, &Status{}}
}

type requestHeader struct {
	Version, Verb uint8
	Zero          uint16
	Sequence      uint32
}

type reply struct {
	Version  uint8
	Zero     [3]uint8
	Sequence uint32
	Errno    uint32
	Value    uint64
	Text     [MaxText]byte
}

// pack encodes values of fixed size.
func pack(values ...any) (out []byte) {
	for _, v := range values {
		out, _ = binary.Append(out, binary.LittleEndian, v) // fails for other types only
	}
	return out
}

// Encode returns the frame of a request.
func Encode(sequence uint32, r Request) []byte {
	verb := 1 + slices.IndexFunc(requests(), func(o Request) bool { return reflect.TypeOf(o) == reflect.TypeOf(r) })
	return pack(requestHeader{Version, uint8(verb), 0, sequence}, r)
}

// Decode reads the frame of a request that came with so many descriptors. The
// sequence number is valid, if the frame has one, beside an error too.
func Decode(frame []byte, files int) (sequence uint32, r Request, err error) {
	var h requestHeader
	n, err := binary.Decode(frame, binary.LittleEndian, &h)
	verbs, wanted := requests(), 0
	switch {
	case err != nil:
		return 0, nil, Errorf(syscall.EINVAL, "a frame of %d bytes is no request", len(frame))
	case h.Version != Version || h.Zero != 0:
		return h.Sequence, nil, Errorf(syscall.EINVAL, "version %d of the protocol is not spoken here, only %d: install the same versions of ossify and ossify-loop", h.Version, Version)
	case h.Verb == 0 || int(h.Verb) > len(verbs):
		return h.Sequence, nil, Errorf(syscall.EINVAL, "there is no verb %d", h.Verb)
	}
	r = verbs[h.Verb-1]
	if _, ok := r.(*Label); ok {
		wanted = 1
	}
	switch size := binary.Size(r); {
	case len(frame)-n != size:
		err = Errorf(syscall.EINVAL, "verb %d has a body of %d bytes, not of %d", h.Verb, size, len(frame)-n)
	case files != wanted:
		err = Errorf(syscall.EINVAL, "verb %d comes with %d descriptors, not with %d", h.Verb, wanted, files)
	default:
		if _, err = binary.Decode(frame[n:], binary.LittleEndian, r); err == nil {
			err = r.check()
		}
	}
	return h.Sequence, r, err
}

// Reply returns the frame of what a request came to: a value or an error.
func Reply(sequence uint32, value uint64, err error) []byte {
	r := reply{Version: Version, Sequence: sequence, Value: value}
	if err != nil {
		errno := syscall.EIO
		errors.As(err, &errno)
		r.Errno = uint32(errno)
		copy(r.Text[:], err.Error())
	}
	return pack(r)
}

// DecodeReply reads a reply. The error is the request's, an *Error.
func DecodeReply(frame []byte) (sequence uint32, value uint64, err error) {
	var r reply
	if n, err := binary.Decode(frame, binary.LittleEndian, &r); err != nil || n != len(frame) || r.Version != Version {
		return 0, 0, Errorf(syscall.EPROTO, "a frame of %d bytes is no reply of ossify-loop", len(frame))
	}
	if r.Errno != 0 {
		text, _, _ := bytes.Cut(r.Text[:], []byte{0})
		err = Errorf(syscall.Errno(r.Errno), "%s", strings.ToValidUTF8(string(text), "?"))
	}
	return r.Sequence, r.Value, err
}
