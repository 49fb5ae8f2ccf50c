package disk

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// Where ext4 keeps extended attributes: in the inode behind its fields, and
// what does not fit there in one block.
const (
	xattrMagic       = 0xea020000
	xattrEntry       = 16 // bytes before the name
	xattrBlockHeader = 32
	inodeFields      = 128 // bytes before i_extra_isize counts
)

// xattr is an extended attribute as ext4 stores it.
type xattr struct {
	index byte // of the name's prefix
	name  []byte
	value []byte
}

func compareXattrs(a, b xattr) int { // the kernel's order in a block
	return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), bytes.Compare(a.name, b.name))
}

// sortXattrs puts an inode's attributes into an order that depends on nothing
// but them: mke2fs takes the one in which the source filesystem lists them,
// which also decides what goes into the block.
func (fs *ext4) sortXattrs(p []byte) error {
	le := binary.LittleEndian
	inside := inodeFields + int(le.Uint16(p[0x80:])) + 4
	if inside > len(p) {
		return errors.New("inode with too many extra fields")
	}
	var all []xattr
	if le.Uint32(p[inside-4:]) == xattrMagic {
		var err error
		if all, err = parseXattrs(p[inside:], 0); err != nil {
			return err
		}
	}
	var block []byte
	number := int64(le.Uint32(p[0x68:])) | int64(le.Uint16(p[0x76:]))<<32
	if number != 0 {
		block = make([]byte, fs.block)
		if _, err := fs.image.ReadAt(block, fs.offset+number*fs.block); err != nil {
			return err
		}
		if le.Uint32(block) != xattrMagic {
			return fmt.Errorf("block %d holds no extended attributes", number)
		}
		more, err := parseXattrs(block, xattrBlockHeader)
		if err != nil {
			return err
		}
		all = append(all, more...)
	}
	if len(all) < 2 {
		return nil
	}
	slices.SortFunc(all, compareXattrs)
	var first, rest []xattr
	for _, x := range all {
		if with := append(slices.Clone(first), x); xattrSize(with) <= len(p)-inside {
			first = with
		} else {
			rest = append(rest, x)
		}
	}
	if (len(rest) > 0) != (number != 0) || number != 0 && xattrSize(rest) > len(block)-xattrBlockHeader {
		return fmt.Errorf("extended attributes do not fit: %d and %d bytes", xattrSize(first), xattrSize(rest))
	}
	clear(p[inside-4:])
	if len(first) > 0 {
		le.PutUint32(p[inside-4:], xattrMagic)
		packXattrs(p[inside:], 0, first, false)
	}
	if number == 0 {
		return nil
	}
	clear(block[xattrBlockHeader:])
	// The header's hash stays 0: this block is not for sharing.
	packXattrs(block, xattrBlockHeader, rest, true)
	if fs.checksums {
		le.PutUint32(block[16:], 0)
		crc := crc32.Update(fs.seed, castagnoli, le.AppendUint64(nil, uint64(number)))
		le.PutUint32(block[16:], ^crc32.Update(crc, castagnoli, block))
	}
	_, err := fs.image.WriteAt(block, fs.offset+number*fs.block)
	return err
}

// pad rounds up to the 4 bytes that names and values are aligned to.
func pad(n int) int { return (n + 3) &^ 3 }

// xattrSize is the room that attributes need, with the end mark.
func xattrSize(all []xattr) int {
	size := 4
	for _, x := range all {
		size += pad(xattrEntry+len(x.name)) + pad(len(x.value))
	}
	return size
}

// parseXattrs reads the attributes of a region whose entries begin at start;
// the places of values count from the region's begin.
func parseXattrs(region []byte, start int) ([]xattr, error) {
	le := binary.LittleEndian
	var all []xattr
	for at := start; at+4 <= len(region) && le.Uint32(region[at:]) != 0; {
		entry := region[at:]
		if len(entry) < xattrEntry || len(entry) < xattrEntry+int(entry[0]) {
			return nil, errors.New("extended attribute is cut off")
		}
		offset, size := int64(le.Uint16(entry[2:])), int64(le.Uint32(entry[8:]))
		if le.Uint32(entry[4:]) != 0 || offset+size > int64(len(region)) {
			return nil, errors.New("extended attribute has its value elsewhere")
		}
		all = append(all, xattr{
			index: entry[1],
			name:  bytes.Clone(entry[xattrEntry : xattrEntry+int(entry[0])]),
			value: bytes.Clone(region[offset : offset+size]),
		})
		at += pad(xattrEntry + int(entry[0]))
	}
	return all, nil
}

// packXattrs writes attributes into a clean region: entries from start on,
// values from its end down. Only those in blocks have hashes.
func packXattrs(region []byte, start int, all []xattr, hashes bool) {
	le := binary.LittleEndian
	end := len(region)
	for _, x := range all {
		entry := region[start:]
		entry[0], entry[1] = byte(len(x.name)), x.index
		le.PutUint32(entry[8:], uint32(len(x.value)))
		copy(entry[xattrEntry:], x.name)
		if len(x.value) > 0 {
			end -= pad(len(x.value))
			copy(region[end:], x.value)
			le.PutUint16(entry[2:], uint16(end))
		}
		if hashes {
			le.PutUint32(entry[12:], x.hash())
		}
		start += pad(xattrEntry + len(x.name))
	}
}

// hash is the kernel's ext4_xattr_hash_entry.
func (x xattr) hash() uint32 {
	h := uint32(0)
	for _, c := range x.name {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	value := append(bytes.Clone(x.value), make([]byte, pad(len(x.value))-len(x.value))...)
	for ; len(value) > 0; value = value[4:] {
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(value)
	}
	return h
}
