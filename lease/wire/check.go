package wire

import (
	"bytes"
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
	if r.Size == 0 || r.Size > MaxSize {
		return Errorf(syscall.EINVAL, "a lease has 1 to %d bytes, not %d", int64(MaxSize), r.Size)
	}
	return nil
}

func (r *Partition) check() error {
	if r.SectorSize != 512 && r.SectorSize != 4096 || r.Size == 0 || r.Size > MaxSize || r.Size%uint64(r.SectorSize) != 0 {
		return Errorf(syscall.EINVAL, "a partition has whole sectors of 512 or 4096 bytes, not %d bytes of %d", r.Size, r.SectorSize)
	}
	return nil
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
	switch {
	case !ok:
		return Errorf(syscall.EINVAL, "there is no type %d of filesystem", r.Type)
	case r.Set&^limit.options != 0 || r.On&^r.Set != 0:
		return Errorf(syscall.EINVAL, "%s has not got an option that is given", r.Type)
	case r.Groups > limit.groups:
		return Errorf(syscall.EINVAL, "%s cannot have %d allocation groups", r.Type, r.Groups)
	case r.UUID == [16]byte{}:
		return Errorf(syscall.EINVAL, "the filesystem has no uuid")
	case err != nil:
		return err
	case len(label) > limit.label:
		return Errorf(syscall.EINVAL, "a label of %s has at most %d bytes; %.300q has %d", r.Type, limit.label, label, len(label))
	case strings.HasPrefix(label, "-") || strings.Contains(label, ","):
		return Errorf(syscall.EINVAL, "the label %.300q begins with '-' or has a comma", label)
	}
	return nil
}

// check leaves it to the kernel whether ranges overlap or are too long.
func (r *Mount) check() error {
	name, err := String(r.Subvolume[:])
	switch {
	case r.ReadOnly > 1:
		return Errorf(syscall.EINVAL, "read-only is 0 or 1, not %d", r.ReadOnly)
	case r.UIDs[0].Count == 0 || r.GIDs[0].Count == 0:
		return Errorf(syscall.EINVAL, "a map of ids has at least one range")
	case err != nil:
		return err
	case name != "" && (!local(name) || name == "." || strings.ContainsAny(name, ",\\")):
		return Errorf(syscall.EINVAL, "%.300q is no name of a subvolume: it is relative, and has no dots, commas and backslashes", name)
	}
	return nil
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
