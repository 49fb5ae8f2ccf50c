package disk

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"
)

const (
	diskIDOffset    = 440
	protectiveCount = 446 + 12 // sector count of the first MBR entry
	legacyBootable  = 1 << 2   // GPT attribute bit, UEFI specification 5.3.3
)

// noSync hides Sync: the caller decides when an image is made durable.
type noSync struct{ backend.WritableFile }

// writeTable writes the partition table of a resolved layout; it leaves the
// boot code (the first 440 bytes) alone.
func writeTable(f *os.File, l *Layout) error {
	write := writeMBR
	if l.TableType == GPT {
		write = writeGPT
	}
	if err := write(f, l); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	return nil
}

func writeMBR(f *os.File, l *Layout) error {
	table := &mbr.Table{LogicalSectorSize: sectorSize, PhysicalSectorSize: sectorSize}
	for i, p := range l.Partitions {
		kind, err := strconv.ParseUint(p.Type, 16, 8)
		if err != nil {
			return fmt.Errorf("internal error: type of partition %d: %w", i+1, err)
		}
		entry := &mbr.Partition{
			Index:    i + 1,
			Bootable: p.Bootable,
			Type:     mbr.Type(kind),
			Start:    uint32(p.Start),
			Size:     uint32(p.Size),
		}
		entry.StartHead, entry.StartSector, entry.StartCylinder = chs(p.Start)
		entry.EndHead, entry.EndSector, entry.EndCylinder = chs(p.Start + p.Size - 1)
		table.Partitions = append(table.Partitions, entry)
	}
	if err := table.Write(noSync{f}, l.Size); err != nil {
		return err
	}
	digits := strings.TrimPrefix(strings.ToLower(l.UUID), "0x")
	id, err := strconv.ParseUint(digits, 16, 32)
	if err != nil {
		return fmt.Errorf("internal error: disk id: %w", err)
	}
	_, err = f.WriteAt(binary.LittleEndian.AppendUint32(nil, uint32(id)), diskIDOffset)
	return err
}

// chs encodes a sector for BIOSes that cannot count: 255 heads, 63 sectors,
// and the largest address for what lies beyond it.
func chs(sector int64) (head, sec, cylinder byte) {
	c, h, s := sector/(255*63), sector/63%255, sector%63+1
	if c > 1023 {
		c, h, s = 1023, 254, 63
	}
	return byte(h), byte(s | c>>8<<6), byte(c)
}

func writeGPT(f *os.File, l *Layout) error {
	table := &gpt.Table{
		LogicalSectorSize:  sectorSize,
		PhysicalSectorSize: sectorSize,
		GUID:               l.UUID,
		ProtectiveMBR:      true,
	}
	for i, p := range l.Partitions {
		entry := &gpt.Partition{
			Index: i + 1,
			Start: uint64(p.Start),
			End:   uint64(p.Start + p.Size - 1),
			Type:  gpt.Type(p.Type),
			GUID:  p.UUID,
			Name:  p.Name,
		}
		if p.Bootable {
			entry.Attributes = legacyBootable
		}
		table.Partitions = append(table.Partitions, entry)
	}
	if err := table.Write(noSync{f}, l.Size); err != nil {
		return err
	}
	// The library cuts the count of larger disks off instead of capping it.
	if l.Size/sectorSize-1 > math.MaxUint32 {
		_, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, protectiveCount)
		return err
	}
	return nil
}
