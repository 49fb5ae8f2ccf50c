package wire

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
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

// Require returns an Error if something is not as it must be.
func Require(good bool, errno syscall.Errno, format string, args ...any) error {
	if good {
		return nil
	}
	return Errorf(errno, format, args...)
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

type reply struct {
	Version uint8
	Errno   uint32
	Value   uint64
	Text    [MaxText]byte
}

// Encode returns the frame of a request.
func Encode(r Request) []byte {
	verb := 1 + slices.IndexFunc(requests(), func(o Request) bool { return reflect.TypeOf(o) == reflect.TypeOf(r) })
	frame, _ := binary.Append([]byte{Version, uint8(verb)}, binary.LittleEndian, r) // fails for other types only
	return frame
}

// Decode reads the frame of a request that came with so many descriptors.
func Decode(frame []byte, files int) (Request, error) {
	verbs, wanted := requests(), 0
	switch {
	case len(frame) < 2 || frame[0] != Version:
		return nil, Errorf(syscall.EINVAL, "a frame is not of version %d of the protocol: install the same versions of ossify and ossify-loop", Version)
	case frame[1] == 0 || int(frame[1]) > len(verbs):
		return nil, Errorf(syscall.EINVAL, "there is no verb %d", frame[1])
	}
	r, body := verbs[frame[1]-1], frame[2:]
	if _, ok := r.(*Label); ok {
		wanted = 1
	}
	switch {
	case len(body) != binary.Size(r):
		return nil, Errorf(syscall.EINVAL, "verb %d has a body of %d bytes, not of %d", frame[1], binary.Size(r), len(body))
	case files != wanted:
		return nil, Errorf(syscall.EINVAL, "verb %d comes with %d descriptors, not with %d", frame[1], wanted, files)
	}
	_, err := binary.Decode(body, binary.LittleEndian, r)
	return r, cmp.Or(err, r.check())
}

// Reply returns the frame of what a request came to: a value or an error.
func Reply(value uint64, err error) []byte {
	r := reply{Version: Version, Value: value}
	if err != nil {
		errno := syscall.EIO
		errors.As(err, &errno)
		r.Errno = uint32(errno)
		copy(r.Text[:], err.Error())
	}
	frame, _ := binary.Append(nil, binary.LittleEndian, r) // fails for other types only
	return frame
}

// DecodeReply reads a reply. The error is the request's, an *Error.
func DecodeReply(frame []byte) (value uint64, err error) {
	var r reply
	if n, err := binary.Decode(frame, binary.LittleEndian, &r); err != nil || n != len(frame) || r.Version != Version {
		return 0, Errorf(syscall.EPROTO, "a frame of %d bytes is no reply of ossify-loop", len(frame))
	}
	text, _, _ := bytes.Cut(r.Text[:], []byte{0})
	return r.Value, Require(r.Errno == 0, syscall.Errno(r.Errno), "%s", strings.ToValidUTF8(string(text), "?"))
}

// Send sends a frame and duplicates of the descriptors, which stay the caller's.
func Send(c *net.UnixConn, frame []byte, files ...int) error {
	var rights []byte // not even a header of none
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	_, _, err := c.WriteMsgUnix(frame, rights, nil)
	return err
}

// Receive returns the next frame and its descriptors, which the caller closes. For
// a frame that is too large or has too many descriptors it returns its beginning
// and an *Error; all descriptors are closed then. Any other error is the end of
// the connection.
func Receive(c *net.UnixConn) (frame []byte, files []int, err error) {
	frame = make([]byte, MaxFrame+1)
	control := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, controls, flags, _, err := c.ReadMsgUnix(frame, control)
	frame = frame[:max(n, 0)]
	messages, parseErr := unix.ParseSocketControlMessage(control[:max(controls, 0)])
	for _, m := range messages {
		fds, rightsErr := unix.ParseUnixRights(&m)
		files, parseErr = append(files, fds...), errors.Join(parseErr, rightsErr)
	}
	if err == nil && (n > MaxFrame || parseErr != nil || len(files) > MaxFiles || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0) {
		err = Errorf(syscall.EINVAL, "a frame has at most %d bytes and %d descriptors", MaxFrame, MaxFiles)
	}
	if err != nil {
		CloseAll(files)
		return frame, nil, err
	}
	return frame, files, nil
}

// Pair makes a connection and the descriptor of its other end, which both are the caller's.
func Pair() (c *net.UnixConn, other int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		c, err = FileConn(pair[0])
	}
	return c, pair[1], In("make a socket pair", err)
}

// CloseAll closes descriptors.
func CloseAll(files []int) {
	for _, fd := range files {
		unix.Close(fd)
	}
}

// FileConn makes a connection of a descriptor, which it takes over.
func FileConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	c, err := net.FileConn(f)
	if u, ok := c.(*net.UnixConn); ok {
		return u, nil
	}
	return nil, errors.Join(errors.New("a descriptor is no unix socket"), err)
}
