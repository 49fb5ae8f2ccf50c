package disk

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"
	"github.com/ossify/ossify/pattern"
)

const (
	sectorSize = 512
	// alignment, in sectors, of partitions that are placed automatically:
	// 1 MiB, as sfdisk does.
	alignment = 2048
	// gptEntrySectors is the size of a GPT's partition array: 128 entries
	// of 128 bytes.
	gptEntrySectors = 32
	// mbrSectors is how many sectors an MBR can address (32 bits).
	mbrSectors = 1 << 32
)

// TableType is a kind of partition table.
type TableType string

// The kinds of partition tables.
const (
	MBR TableType = "mbr"
	GPT TableType = "gpt"
	// None is no table: the disk is the filesystem of the only partition.
	None TableType = "none"
)

// Layout is a partitioned disk with sectors of 512 bytes.
type Layout struct {
	TableType TableType
	// UUID is the disk's GUID (GPT) or its signature as up to 8 hexadecimal
	// digits with or without "0x" (MBR).
	UUID string
	// Size of the disk in bytes, a multiple of 512.
	Size       int64
	Partitions []Partition
}

// Partition is an entry of the table. Zero values of Start, Size, Type and UUID
// are filled in by Resolve. The JSON form is that of manifests.
type Partition struct {
	// Start and Size are in sectors.
	Start int64 `json:"start"`
	Size  int64 `json:"size"`
	// Type is a GUID (GPT), a hexadecimal byte (MBR) or one of sfdisk's
	// aliases (L, S, U, H, R, V, linux, swap, uefi, home, raid, lvm).
	Type string `json:"type"`
	// UUID and Name exist only in a GPT.
	UUID string `json:"uuid"`
	Name string `json:"name"`
	// Bootable sets the active flag (MBR) or the legacy BIOS bootable
	// attribute (GPT).
	Bootable   bool        `json:"bootable"`
	Filesystem *Filesystem `json:"filesystem"`
}

// Filesystem is what a partition is formatted with.
type Filesystem struct {
	// Type is "ext4", "xfs", "btrfs", "vfat" or "swap".
	Type string `json:"type"`
	// UUID is the filesystem's; vfat takes the form "7B77-95E7".
	UUID  string `json:"uuid"`
	Label string `json:"label"`
	// Mountpoint is where the filesystem appears in the tree; what lies
	// below it there goes into this filesystem. Swap has none.
	Mountpoint string `json:"mountpoint"`
}

// start and size of a partition in bytes.
func (p *Partition) startBytes() int64 { return p.Start * sectorSize }
func (p *Partition) sizeBytes() int64  { return p.Size * sectorSize }

// Resolve checks the layout and returns a copy in which every partition has a
// place, a type and, in a GPT, a UUID. Partitions without a start follow the
// one before them, aligned to 1 MiB; the last one may leave its size out and
// takes the rest of the disk, any other one up to the given start of the next.
// Missing GPT UUIDs are derived from the disk's.
func (l Layout) Resolve() (Layout, error) {
	l.Partitions = slices.Clone(l.Partitions)
	if l.TableType == None {
		return l, l.resolveBare()
	}
	if l.Size <= 0 || l.Size%sectorSize != 0 {
		return l, fmt.Errorf("disk size %d is not a positive multiple of %d", l.Size, sectorSize)
	}
	var err error
	switch l.TableType {
	case MBR:
		err = l.resolveMBR()
	case GPT:
		err = l.resolveGPT()
	default:
		err = fmt.Errorf("unknown partition table type %q: want mbr or gpt", l.TableType)
	}
	if err != nil {
		return l, err
	}
	if err := l.place(); err != nil {
		return l, err
	}
	return l, l.checkFilesystems()
}

// resolveBare gives the only filesystem all of the disk.
func (l *Layout) resolveBare() error {
	if len(l.Partitions) != 1 || l.Partitions[0].Filesystem == nil {
		return errors.New("an image without a partition table has exactly one filesystem")
	}
	p := &l.Partitions[0]
	p.Start, p.Size = 0, l.Size/sectorSize
	if p.Size <= 0 {
		return fmt.Errorf("image size %d is less than %d bytes", l.Size, sectorSize)
	}
	return l.checkFilesystems()
}

var hexID = pattern.New(`^(0[xX])?[0-9a-fA-F]{1,8}$`)

func (l *Layout) resolveMBR() error {
	if !hexID().MatchString(l.UUID) {
		return fmt.Errorf("disk id %q is not allowed: an mbr takes up to 8 hexadecimal digits, such as 0x14fc63d2", l.UUID)
	}
	if len(l.Partitions) > 4 {
		return fmt.Errorf("%d partitions do not fit into an mbr, which has room for 4: use gpt", len(l.Partitions))
	}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.UUID != "" || p.Name != "" {
			return fmt.Errorf("partition %d has a uuid or a name, which an mbr cannot store: leave them out or use gpt", i+1)
		}
		t, err := mbrType(p)
		if err != nil {
			return fmt.Errorf("partition %d: %w", i+1, err)
		}
		p.Type = fmt.Sprintf("%02x", t)
	}
	return nil
}

func (l *Layout) resolveGPT() error {
	disk, err := parseUUID(l.UUID)
	if err != nil {
		return fmt.Errorf("disk id: %w", err)
	}
	l.UUID = strings.ToUpper(disk.String())
	if len(l.Partitions) > 128 {
		return fmt.Errorf("%d partitions do not fit into a gpt, which has room for 128", len(l.Partitions))
	}
	seen := map[string]int{}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.UUID == "" {
			p.UUID = uuid.NewSHA1(disk, []byte("partition "+strconv.Itoa(i+1))).String()
		}
		id, err := parseUUID(p.UUID)
		if err != nil {
			return fmt.Errorf("partition %d: %w", i+1, err)
		}
		p.UUID = strings.ToUpper(id.String())
		if other, ok := seen[p.UUID]; ok {
			return fmt.Errorf("partitions %d and %d have the same uuid %s", other, i+1, p.UUID)
		}
		seen[p.UUID] = i + 1
		if n := len(utf16.Encode([]rune(p.Name))); n > 36 {
			return fmt.Errorf("partition %d: name %q has %d UTF-16 units, a gpt stores 36", i+1, p.Name, n)
		}
		if p.Type, err = gptType(p); err != nil {
			return fmt.Errorf("partition %d: %w", i+1, err)
		}
	}
	return nil
}

func parseUUID(s string) (uuid.UUID, error) {
	if len(s) != 36 {
		return uuid.UUID{}, fmt.Errorf("%q is not a uuid of the form 6264d520-3fb9-423f-8ab8-7a0a8e3d3562", s)
	}
	id, err := uuid.Parse(s)
	if err != nil {
		return id, fmt.Errorf("%q is not a uuid: %w", s, err)
	}
	return id, nil
}

// usable returns the first sector for partitions and the one after the last.
func (l *Layout) usable() (first, end int64) {
	if l.TableType == GPT {
		return 2 + gptEntrySectors, l.Size/sectorSize - 1 - gptEntrySectors
	}
	return 1, min(l.Size/sectorSize, mbrSectors)
}

// place fills in starts and sizes and refuses what overlaps or sticks out.
func (l *Layout) place() error {
	first, end := l.usable()
	next := int64(alignment)
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.Start < 0 || p.Size < 0 {
			return fmt.Errorf("partition %d: start and size must not be negative", i+1)
		}
		if p.Start == 0 {
			p.Start = (next + alignment - 1) / alignment * alignment
		}
		if p.Size == 0 {
			limit := end
			if i+1 < len(l.Partitions) {
				if limit = l.Partitions[i+1].Start; limit == 0 {
					return fmt.Errorf("partition %d has no size: only the last one may leave it out, or one whose successor has a start", i+1)
				}
			}
			// Whole MiB, unless there is less than that.
			p.Size = limit - p.Start
			if p.Size > alignment {
				p.Size -= (p.Start + p.Size) % alignment
			}
		}
		if p.Start < first || p.Size < 1 || p.Start > end || p.Size > end-p.Start {
			return fmt.Errorf("partition %d (sectors %d to %d) does not fit into the disk, whose usable sectors are %d to %d: make the disk larger than %d bytes or the partitions smaller", i+1, p.Start, p.Start+p.Size-1, first, end-1, l.Size)
		}
		next = max(next, p.Start+p.Size)
	}
	order := make([]int, len(l.Partitions))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return int(l.Partitions[a].Start - l.Partitions[b].Start)
	})
	for k := 1; k < len(order); k++ {
		a, b := &l.Partitions[order[k-1]], &l.Partitions[order[k]]
		if a.Start+a.Size > b.Start {
			return fmt.Errorf("partitions %d and %d overlap at sector %d", order[k-1]+1, order[k]+1, b.Start)
		}
	}
	return nil
}

var vfatID = pattern.New(`^[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}$`)

// checkFilesystems also brings UUIDs and mount points into one form.
func (l *Layout) checkFilesystems() error {
	mounts, ids := map[string]int{}, map[string]int{}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.Filesystem == nil {
			continue
		}
		fs := *p.Filesystem
		p.Filesystem = &fs
		if err := fs.check(); err != nil {
			return fmt.Errorf("partition %d: %w", i+1, err)
		}
		if other, ok := ids[fs.UUID]; ok {
			return fmt.Errorf("partitions %d and %d have filesystems with the same uuid %s", other, i+1, fs.UUID)
		}
		ids[fs.UUID] = i + 1
		if fs.Type == "swap" {
			continue
		}
		if other, ok := mounts[fs.Mountpoint]; ok {
			return fmt.Errorf("partitions %d and %d have the same mountpoint %s", other, i+1, fs.Mountpoint)
		}
		mounts[fs.Mountpoint] = i + 1
	}
	if _, ok := mounts["/"]; !ok {
		return errors.New("no partition has a filesystem with the mountpoint /")
	}
	return nil
}

// maxLabel is the longest label, in bytes, that each filesystem stores.
var maxLabel = map[string]int{"ext4": 16, "xfs": 12, "btrfs": 255, "vfat": 11, "swap": 16}

func (fs *Filesystem) check() error {
	limit, ok := maxLabel[fs.Type]
	switch {
	case !ok:
		return fmt.Errorf("unknown filesystem type %q: want ext4, xfs, btrfs, vfat or swap", fs.Type)
	case len(fs.Label) > limit:
		return fmt.Errorf("label %q has %d bytes, %s stores %d", fs.Label, len(fs.Label), fs.Type, limit)
	}
	if fs.Type == "vfat" {
		if !vfatID().MatchString(fs.UUID) {
			return fmt.Errorf("%q is not a volume id of vfat, such as 7B77-95E7", fs.UUID)
		}
		fs.UUID = strings.ToUpper(fs.UUID)
	} else {
		id, err := parseUUID(fs.UUID)
		if err != nil {
			return fmt.Errorf("filesystem: %w", err)
		}
		fs.UUID = id.String()
	}
	if fs.Type == "swap" {
		if fs.Mountpoint != "" {
			return fmt.Errorf("swap has no mountpoint, but %q was given", fs.Mountpoint)
		}
		return nil
	}
	if !path.IsAbs(fs.Mountpoint) {
		return fmt.Errorf("mountpoint %q is not an absolute path", fs.Mountpoint)
	}
	fs.Mountpoint = path.Clean(fs.Mountpoint)
	return nil
}

// holder returns the partition whose filesystem holds an absolute path of the
// tree, and the path inside that filesystem.
func (l *Layout) holder(name string) (*Partition, string) {
	var best *Partition
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.Filesystem == nil || p.Filesystem.Type == "swap" || !below(p.Filesystem.Mountpoint, name) {
			continue
		}
		if best == nil || len(p.Filesystem.Mountpoint) > len(best.Filesystem.Mountpoint) {
			best = p
		}
	}
	if best == nil {
		return nil, ""
	}
	return best, path.Join("/", strings.TrimPrefix(name, best.Filesystem.Mountpoint))
}

// below tells whether name is dir or lies below it; both are clean.
func below(dir, name string) bool {
	return dir == "/" || name == dir || strings.HasPrefix(name, dir+"/")
}
