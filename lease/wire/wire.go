package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"syscall"
	"unicode/utf8"
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

	// Status asks for a table of leases, which comes as a memfd.
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
	switch f {
	case Ext4:
		return "ext4"
	case XFS:
		return "xfs"
	case Btrfs:
		return "btrfs"
	}
	return "no filesystem"
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

// An index is checked by who knows the partitions.
func (*Label) check() error  { return nil }
func (*Sync) check() error   { return nil }
func (*Export) check() error { return nil }
func (*Close) check() error  { return nil }
func (*Status) check() error { return nil }

// requests are empty ones, in the order of their verbs' numbers, from 1.
func requests() []Request {
	return []Request{&Create{}, &Partition{}, &Mkfs{}, &Mount{}, &Label{}, &Sync{}, &Export{}, &Close{}, &Status{}}
}

// filesOf is the number of descriptors that belong to a request.
func filesOf(r Request) int {
	if _, ok := r.(*Label); ok {
		return 1
	}
	return 0
}

type requestHeader struct {
	Version, Verb uint8
	Zero          uint16
	Sequence      uint32
}

type replyHeader struct {
	Version  uint8
	Zero     [3]uint8
	Sequence uint32
	Errno    uint32
	Value    uint64
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
	if err != nil {
		return 0, nil, Errorf(syscall.EINVAL, "a frame of %d bytes is no request", len(frame))
	}
	verbs := requests()
	switch {
	case h.Version != Version || h.Zero != 0:
		return h.Sequence, nil, Errorf(syscall.EINVAL, "version %d of the protocol is not spoken here, only %d: install the same versions of ossify and ossify-loop", h.Version, Version)
	case h.Verb == 0 || int(h.Verb) > len(verbs):
		return h.Sequence, nil, Errorf(syscall.EINVAL, "there is no verb %d", h.Verb)
	}
	r = verbs[h.Verb-1]
	switch size := binary.Size(r); {
	case len(frame)-n != size:
		err = Errorf(syscall.EINVAL, "verb %d has a body of %d bytes, not of %d", h.Verb, size, len(frame)-n)
	case files != filesOf(r):
		err = Errorf(syscall.EINVAL, "verb %d comes with %d descriptors, not with %d", h.Verb, filesOf(r), files)
	default:
		if _, err = binary.Decode(frame[n:], binary.LittleEndian, r); err == nil {
			err = r.check()
		}
	}
	return h.Sequence, r, err
}

// Reply is the answer to a request.
type Reply struct {
	Sequence uint32
	Errno    syscall.Errno
	Value    uint64
	Text     string
}

// ReplyTo makes the reply of a request's outcome.
func ReplyTo(sequence uint32, value uint64, err error) Reply {
	r := Reply{Sequence: sequence, Value: value}
	if err != nil {
		r.Errno, r.Text = syscall.EIO, err.Error()
		errors.As(err, &r.Errno)
	}
	return r
}

// Encode returns the reply's frame. Text that is too long is cut.
func (r Reply) Encode() []byte {
	text := r.Text
	for len(text) > MaxText || len(text) > 0 && !utf8.ValidString(text) {
		text = text[:min(len(text)-1, MaxText)]
	}
	return append(pack(replyHeader{Version: Version, Sequence: r.Sequence, Errno: uint32(r.Errno), Value: r.Value}), text...)
}

// DecodeReply reads a reply.
func DecodeReply(frame []byte) (Reply, error) {
	var h replyHeader
	n, err := binary.Decode(frame, binary.LittleEndian, &h)
	if err != nil || h.Version != Version || h.Zero != [3]uint8{} || h.Errno > 4095 || len(frame)-n > MaxText {
		return Reply{}, Errorf(syscall.EPROTO, "a frame of %d bytes is no reply of ossify-loop", len(frame))
	}
	return Reply{h.Sequence, syscall.Errno(h.Errno), h.Value, string(frame[n:])}, nil
}

// Err is the reply's error, nil if the request was carried out.
func (r Reply) Err() error {
	if r.Errno == 0 {
		return nil
	}
	return &Error{r.Errno, r.Text}
}

// pack encodes values of fixed size.
func pack(values ...any) (out []byte) {
	for _, v := range values {
		out, _ = binary.Append(out, binary.LittleEndian, v) // fails for other types only
	}
	return out
}
