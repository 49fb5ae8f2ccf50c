package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/google/uuid"
	"github.com/ossify/ossify/pattern"
)

// identify replaces what qemu-img makes up at random in an image by ids that
// follow from the disk's id, and its clock by epoch.
func identify(format, name, id string, epoch int64) (err error) {
	change := map[string]func(*os.File, func(string) uuid.UUID, int64) error{
		"vmdk": identifyVMDK, "vdi": identifyVDI, "vpc": identifyVPC, "vhdx": identifyVHDX,
	}[format]
	if change == nil {
		return nil
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	derive := func(use string) uuid.UUID {
		return uuid.NewSHA1(uuid.NameSpaceOID, []byte(format+" "+use+" of disk "+id))
	}
	return change(f, derive, epoch)
}

var vmdkCID = pattern.New(`(?m)^CID=[0-9a-f]+$`)

// identifyVMDK sets the content id of the descriptor, a text that is the file
// itself or lies where the sparse header says.
func identifyVMDK(f *os.File, derive func(string) uuid.UUID, _ int64) error {
	const maxDescriptor = 1 << 20
	info, err := f.Stat()
	if err != nil {
		return err
	}
	offset, size := int64(0), info.Size()
	head := make([]byte, 44)
	if _, err := f.ReadAt(head, 0); err != nil {
		return err
	}
	if string(head[:4]) == "KDMV" {
		offset = int64(binary.LittleEndian.Uint64(head[28:])) * sectorSize
		size = int64(binary.LittleEndian.Uint64(head[36:])) * sectorSize
	}
	if size < 0 || size > maxDescriptor {
		return fmt.Errorf("vmdk descriptor of %d bytes", size)
	}
	text := make([]byte, size)
	if _, err := f.ReadAt(text, offset); err != nil {
		return err
	}
	text = bytes.TrimRight(text, "\x00")
	if !vmdkCID().Match(text) {
		return errors.New("vmdk descriptor without a CID")
	}
	cid := derive("content")
	// The highest bit stays clear: ffffffff means "no parent".
	line := fmt.Sprintf("CID=%08x", binary.BigEndian.Uint32(cid[:])&0x7fffffff)
	text = vmdkCID().ReplaceAll(text, []byte(line))
	if int64(len(text)) > size {
		if offset != 0 {
			return errors.New("vmdk descriptor has no room left")
		}
		size = int64(len(text))
	}
	_, err = f.WriteAt(append(text, make([]byte, size-int64(len(text)))...), offset)
	return err
}

// identifyVDI sets the ids of the image and of its last snapshot
// (VirtualBox's VDIHEADER1).
func identifyVDI(f *os.File, derive func(string) uuid.UUID, _ int64) error {
	for offset, use := range map[int64]string{0x188: "image", 0x198: "snapshot"} {
		id := derive(use)
		if _, err := f.WriteAt(id[:], offset); err != nil {
			return err
		}
	}
	return nil
}

// identifyVPC sets id and time in the footer of a fixed image and sums it
// again (Virtual Hard Disk Image Format Specification, "Hard Disk Footer").
func identifyVPC(f *os.File, derive func(string) uuid.UUID, epoch int64) error {
	const (
		epoch2000 = 946684800
		timeAt    = 0x18
		sumAt     = 0x40
		idAt      = 0x44
	)
	info, err := f.Stat()
	if err != nil {
		return err
	}
	footer, at := make([]byte, 512), info.Size()-512
	if _, err := f.ReadAt(footer, at); err != nil {
		return err
	}
	if string(footer[:8]) != "conectix" {
		return errors.New("vpc image without a footer")
	}
	id := derive("image")
	copy(footer[idAt:], id[:])
	be := binary.BigEndian
	be.PutUint32(footer[timeAt:], uint32(max(0, epoch-epoch2000)))
	be.PutUint32(footer[sumAt:], 0)
	sum := uint32(0)
	for _, b := range footer {
		sum += uint32(b)
	}
	be.PutUint32(footer[sumAt:], ^sum)
	_, err = f.WriteAt(footer, at)
	return err
}

// GUIDs of VHDX as they stand in the file (MS-VHDX 2.2.3.2 and 2.6.2).
var (
	vhdxMetadata = guidBytes("8b7ca206-4790-4b9a-b8fe-575f050f886e")
	vhdxPage83   = guidBytes("beca12ab-b2e6-4523-93ef-c309e000c746")
)

func guidBytes(s string) [16]byte {
	id := uuid.MustParse(s)
	for _, swap := range [][2]int{{0, 3}, {1, 2}, {4, 5}, {6, 7}} {
		id[swap[0]], id[swap[1]] = id[swap[1]], id[swap[0]]
	}
	return id
}

// identifyVHDX sets the sequence and the write ids of both headers and the
// disk's id, and wipes the log, which is empty but holds remains.
func identifyVHDX(f *os.File, derive func(string) uuid.UUID, _ int64) error {
	le := binary.LittleEndian
	written, data := derive("file"), derive("data")
	for i, at := range []int64{64 << 10, 128 << 10} {
		head := make([]byte, 4096)
		if _, err := f.ReadAt(head, at); err != nil {
			return err
		}
		if string(head[:4]) != "head" {
			return errors.New("vhdx image without a header")
		}
		if !bytes.Equal(head[48:64], make([]byte, 16)) {
			return errors.New("vhdx image with a log to replay")
		}
		// The headers say the same now; the later one counts.
		le.PutUint64(head[8:], uint64(i+1))
		copy(head[16:], written[:])
		copy(head[32:], data[:])
		le.PutUint32(head[4:], 0)
		le.PutUint32(head[4:], crc32.Checksum(head, castagnoli))
		if _, err := f.WriteAt(head, at); err != nil {
			return err
		}
		log := make([]byte, min(le.Uint32(head[68:]), 64<<20))
		if _, err := f.WriteAt(log, int64(le.Uint64(head[72:]))); err != nil {
			return err
		}
	}
	region, err := vhdxFind(f, 192<<10, "regi", 16, vhdxMetadata)
	if err != nil {
		return err
	}
	start := int64(le.Uint64(region))
	item, err := vhdxFind(f, start, "metadata", 32, vhdxPage83)
	if err != nil {
		return err
	}
	id := derive("disk")
	_, err = f.WriteAt(id[:], start+int64(le.Uint32(item)))
	return err
}

// vhdxFind returns what follows the GUID in that entry of a table: region and
// metadata tables both have entries of 32 bytes after a header.
func vhdxFind(f *os.File, at int64, magic string, header int, guid [16]byte) ([]byte, error) {
	table := make([]byte, 64<<10)
	if _, err := f.ReadAt(table, at); err != nil {
		return nil, err
	}
	if string(table[:len(magic)]) != magic {
		return nil, fmt.Errorf("vhdx image without a table %q at %d", magic, at)
	}
	for p := table[header:]; len(p) >= 32; p = p[32:] {
		if bytes.Equal(p[:16], guid[:]) {
			return p[16:32], nil
		}
	}
	return nil, fmt.Errorf("vhdx table %q without the entry %x", magic, guid)
}
