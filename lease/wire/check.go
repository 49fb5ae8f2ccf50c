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

func (r *Create) check() error {
	if r.Size == 0 || r.Size > MaxSize {
		return Errorf(syscall.EINVAL, "a lease has 1 to %d bytes, not %d", int64(MaxSize), r.Size)
	}
	return nil
}

func (r *Partition) check() error {
	if r.SectorSize != 512 && r.SectorSize != 4096 {
		return Errorf(syscall.EINVAL, "a sector has 512 or 4096 bytes, not %d", r.SectorSize)
	}
	if r.Size == 0 || r.Size > MaxSize || r.Size%uint64(r.SectorSize) != 0 {
		return Errorf(syscall.EINVAL, "a partition has whole sectors of %d bytes, at most %d bytes, not %d", r.SectorSize, int64(MaxSize), r.Size)
	}
	return nil
}

// maxLabel are the longest labels, in bytes.
var maxLabel = map[Filesystem]int{Ext4: 16, XFS: 12, Btrfs: 255}

// options are those that a filesystem has.
var options = map[Filesystem]Options{
	Ext4:  LazyInit | Verity | OrphanFile | MetadataCsumSeed,
	Btrfs: MetadataDup,
}

func (r *Mkfs) check() error {
	longest, ok := maxLabel[r.Type]
	switch {
	case !ok:
		return Errorf(syscall.EINVAL, "there is no type %d of filesystem", r.Type)
	case r.Set&^options[r.Type] != 0 || r.On&^r.Set != 0:
		return Errorf(syscall.EINVAL, "%s has not got an option that is given", r.Type)
	case r.Groups != 0 && (r.Type != XFS || r.Groups > 1e6):
		return Errorf(syscall.EINVAL, "%s cannot have %d allocation groups", r.Type, r.Groups)
	case r.UUID == [16]byte{}:
		return Errorf(syscall.EINVAL, "the filesystem has no uuid")
	}
	label, err := String(r.Label[:])
	switch {
	case err != nil:
		return err
	case len(label) > longest:
		return Errorf(syscall.EINVAL, "a label of %s has at most %d bytes; %.300q has %d", r.Type, longest, label, len(label))
	case strings.HasPrefix(label, "-") || strings.Contains(label, ","):
		return Errorf(syscall.EINVAL, "the label %.300q begins with '-' or has a comma", label)
	}
	return nil
}

func (r *Mount) check() error {
	if r.ReadOnly > 1 {
		return Errorf(syscall.EINVAL, "read-only is 0 or 1, not %d", r.ReadOnly)
	}
	for _, m := range [][MaxRanges]Range{r.UIDs, r.GIDs} {
		if err := checkMap(m[:]); err != nil {
			return err
		}
	}
	name, err := String(r.Subvolume[:])
	if err != nil {
		return err
	}
	if name != "" && (name != path.Clean(name) || name == "." || path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsAny(name, ",\\")) {
		return Errorf(syscall.EINVAL, "%.300q is no name of a subvolume: it is relative, and has no dots, commas and backslashes", name)
	}
	return nil
}

// checkMap refuses a map that the kernel would not take.
func checkMap(m []Range) error {
	const invalid = 1<<32 - 1 // -1 is no id
	for i, r := range m {
		switch {
		case r.Count == 0 && (r != Range{} || i == 0):
			return Errorf(syscall.EINVAL, "a map of ids has at least one range, and its ranges have at least one id")
		case r.Count != 0 && i > 0 && m[i-1].Count == 0:
			return Errorf(syscall.EINVAL, "a map of ids has a gap between its ranges")
		case uint64(r.Disk)+uint64(r.Count) > invalid || uint64(r.Host)+uint64(r.Count) > invalid:
			return Errorf(syscall.EINVAL, "a map of ids goes beyond the largest id")
		}
		for _, other := range m[:i] {
			if overlap(r.Disk, other.Disk, r.Count, other.Count) || overlap(r.Host, other.Host, r.Count, other.Count) {
				return Errorf(syscall.EINVAL, "ranges of a map of ids overlap")
			}
		}
	}
	return nil
}

func overlap(a, b, lenA, lenB uint32) bool {
	return uint64(a) < uint64(b)+uint64(lenB) && uint64(b) < uint64(a)+uint64(lenA)
}

// String returns the text of a field that is filled up with NULs.
func String(field []byte) (string, error) {
	text, rest, _ := bytes.Cut(field, []byte{0})
	if len(bytes.Trim(rest, "\x00")) > 0 {
		return "", Errorf(syscall.EINVAL, "a string has a NUL in it")
	}
	if !utf8.Valid(text) || bytes.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", Errorf(syscall.EINVAL, "%.300q is not all printable", text)
	}
	return string(text), nil
}

// SetString fills a field with text. It fails if the text does not fit or is not
// printable.
func SetString(field []byte, text string) error {
	if len(text) > len(field) || strings.Contains(text, "\x00") {
		return Errorf(syscall.EINVAL, "%.300q is longer than %d bytes, or has a NUL", text, len(field))
	}
	clear(field[copy(field, text):])
	_, err := String(field)
	return err
}
