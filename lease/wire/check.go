package wire

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"path"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// MaxSize is the largest lease and partition, in bytes: 16 TiB, ext4's limit.
const MaxSize = 16 << 40

// An index is checked by who knows the partitions.
func (*Label) check() error  { return nil }
func (*Sync) check() error   { return nil }
func (*Export) check() error { return nil }
func (*Close) check() error  { return nil }
func (*Status) check() error { return nil }

func (r *Create) check() error {
	return Require(r.Size > 0 && r.Size <= MaxSize, syscall.EINVAL, "a lease has 1 to %d bytes, not %d", int64(MaxSize), r.Size)
}

func (r *Partition) check() error {
	sectors := r.SectorSize == 512 || r.SectorSize == 4096
	return Require(sectors && r.Size > 0 && r.Size <= MaxSize && r.Size%uint64(r.SectorSize) == 0, syscall.EINVAL,
		"a partition has whole sectors of 512 or 4096 bytes, not %d bytes of %d", r.Size, r.SectorSize)
}

// limits are what a filesystem can have.
var limits = map[Filesystem]struct {
	label   int // bytes
	options Options
	groups  uint32
}{
	Ext4:  {label: 16, options: LazyInit | Verity | OrphanFile | MetadataCsumSeed},
	XFS:   {label: 12, groups: 1e6},
	Btrfs: {label: 255, options: MetadataDup},
}

func (r *Mkfs) check() error {
	limit, ok := limits[r.Type]
	label, err := String(r.Label[:])
	return cmp.Or(err,
		Require(ok, syscall.EINVAL, "there is no type %d of filesystem", r.Type),
		Require(r.Set&^limit.options == 0 && r.On&^r.Set == 0, syscall.EINVAL, "%s has not got an option that is given", r.Type),
		Require(r.Groups <= limit.groups, syscall.EINVAL, "%s cannot have %d allocation groups", r.Type, r.Groups),
		Require(r.UUID != [16]byte{}, syscall.EINVAL, "the filesystem has no uuid"),
		Require(len(label) <= limit.label, syscall.EINVAL, "a label of %s has at most %d bytes; %.300q has %d", r.Type, limit.label, label, len(label)),
		Require(!strings.HasPrefix(label, "-") && !strings.Contains(label, ","), syscall.EINVAL, "the label %.300q begins with '-' or has a comma", label))
}

// check leaves it to the kernel whether ranges overlap or are too long.
func (r *Mount) check() error {
	name, err := String(r.Subvolume[:])
	return cmp.Or(err,
		Require(r.ReadOnly <= 1, syscall.EINVAL, "read-only is 0 or 1, not %d", r.ReadOnly),
		Require(r.UIDs[0].Count > 0 && r.GIDs[0].Count > 0, syscall.EINVAL, "a map of ids has at least one range"),
		Require(name == "" || local(name) && name != "." && !strings.ContainsAny(name, ",\\"), syscall.EINVAL,
			"%.300q is no name of a subvolume: it is relative, and has no dots, commas and backslashes", name))
}

// local says whether a path is clean and stays where it begins.
func local(name string) bool {
	return name == path.Clean(name) && !path.IsAbs(name) && name != ".." && !strings.HasPrefix(name, "../")
}

// String returns the text of a field that is filled up with NULs.
func String(field []byte) (string, error) {
	text, rest, _ := bytes.Cut(field, []byte{0})
	if len(bytes.Trim(rest, "\x00")) > 0 || !utf8.Valid(text) || bytes.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", Errorf(syscall.EINVAL, "%.300q is not all printable, or has a NUL in it", text)
	}
	return string(text), nil
}

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
	capability := binary.LittleEndian.Uint32(e.Capability[:])&^effective == version
	return cmp.Or(
		Require(local(e.Path) && len(e.Path) < 4096 && !strings.Contains(e.Path, "\x00"), syscall.EINVAL, "%.200q is no relative clean path", e.Path),
		Require(len(e.SELinux) <= 4096 && !strings.ContainsAny(e.SELinux, "\x00\n"), syscall.EINVAL, "%.200q has no SELinux context", e.Path),
		Require(e.Flags&^(Append|Immutable) == 0, syscall.EINVAL, "%.200q has unknown inode flags %#x", e.Path, e.Flags),
		Require(e.Capability == [20]byte{} || capability, syscall.EINVAL, "%.200q has no capabilities of version 2", e.Path))
}

// AppendEntry appends an entry that Check has accepted to a list.
func AppendEntry(list []byte, e Entry) []byte {
	list = append(append(list, e.Path...), 0)
	list = append(append(list, e.SELinux...), 0)
	return append(append(list, e.Capability[:]...), e.Flags)
}

// Labels reads a list.
func Labels(list []byte) (entries []Entry, err error) {
	for len(list) > 0 {
		path, rest, _ := bytes.Cut(list, []byte{0})
		context, rest, _ := bytes.Cut(rest, []byte{0})
		if len(rest) < 21 {
			return nil, Errorf(syscall.EINVAL, "a list of labels ends in the middle of an entry")
		}
		e := Entry{string(path), string(context), [20]byte(rest), rest[20]}
		if err := e.Check(); err != nil {
			return nil, err
		}
		entries, list = append(entries, e), rest[21:]
	}
	return entries, nil
}
