package unxz

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
)

// Kinds of check of a stream (xz-file-format.txt, 2.1.1.2).
const (
	checkNone   = 0x00
	checkCRC32  = 0x01
	checkCRC64  = 0x04
	checkSHA256 = 0x0a
)

var errCorrupt = errors.New("compressed data is corrupt")

// newCheck returns the hash of that kind, nil for none.
func newCheck(kind byte) (hash.Hash, error) {
	switch kind {
	case checkNone:
		return nil, nil
	case checkCRC32:
		return crc32.NewIEEE(), nil
	case checkCRC64:
		return crc64.New(crc64.MakeTable(crc64.ECMA)), nil
	case checkSHA256:
		return sha256.New(), nil
	}
	return nil, fmt.Errorf("xz check of unknown kind %#x", kind)
}

// checkBytes is the size of that check as stored after a block.
func checkBytes(kind byte) int {
	switch kind {
	case checkCRC32:
		return 4
	case checkCRC64:
		return 8
	case checkSHA256:
		return 32
	}
	return 0
}

// checkSum brings the sum of h into the byte order of the file.
func checkSum(h hash.Hash) []byte {
	sum := h.Sum(nil)
	switch h := h.(type) {
	case hash.Hash32:
		binary.LittleEndian.PutUint32(sum, h.Sum32())
	case hash.Hash64:
		binary.LittleEndian.PutUint64(sum, h.Sum64())
	}
	return sum
}

// decodeBlock decodes one block (header, data, check) of a stream with that
// check into out, whose length is the block's size. raw must have symbolInput
// spare bytes of capacity behind its length.
func decodeBlock(d *lzma, out, raw []byte, check byte) error {
	if len(raw) < 8 || raw[0] == 0 {
		return errCorrupt
	}
	headerLen := (int(raw[0]) + 1) * 4
	if headerLen > len(raw) {
		return errCorrupt
	}
	header := raw[:headerLen-4]
	if crc32.ChecksumIEEE(header) != binary.LittleEndian.Uint32(raw[headerLen-4:]) {
		return errCorrupt
	}
	if err := checkFilters(header); err != nil {
		return err
	}
	end, err := decodeLZMA2(d, out, raw, headerLen)
	if err != nil {
		return err
	}
	sumBytes := checkBytes(check)
	// The block is padded with zeros to a multiple of four bytes.
	if gap := len(raw) - sumBytes - end; gap < 0 || gap > 3 || string(raw[end:end+gap]) != "\x00\x00\x00"[:gap] {
		return errCorrupt
	}
	h, err := newCheck(check)
	if err != nil || h == nil {
		return err
	}
	h.Write(out)
	if string(checkSum(h)) != string(raw[len(raw)-sumBytes:]) {
		return fmt.Errorf("%w: the check of a block does not match", errCorrupt)
	}
	return nil
}

// checkFilters refuses all but a lone LZMA2 filter.
func checkFilters(header []byte) error {
	flags := header[1]
	p := header[2:]
	for _, bit := range []byte{0x40, 0x80} { // optional sizes, known from the index
		if flags&bit == 0 {
			continue
		}
		_, n := binary.Uvarint(p)
		if n <= 0 {
			return errCorrupt
		}
		p = p[n:]
	}
	if flags&0x3f != 0 || len(p) < 3 || p[0] != 0x21 || p[1] != 1 {
		return errors.New("xz data with other filters than one of LZMA2 cannot be read")
	}
	return nil
}

// decodeLZMA2 decodes the chunks that start at pos of in until out is full and
// the end marker is read, and returns the position behind it.
func decodeLZMA2(d *lzma, out, in []byte, pos int) (int, error) {
	size := len(in)
	padded := in[:size+symbolInput]
	d.out, d.n, d.base, d.in = out, 0, 0, padded
	needDict, needProps, needState := true, true, true
	for {
		if pos >= size {
			return 0, errCorrupt
		}
		control := in[pos]
		pos++
		if control == 0 {
			if d.n != len(out) {
				return 0, errCorrupt
			}
			return pos, nil
		}
		if control == 1 || control >= 0xe0 {
			d.base, needDict = d.n, false
		}
		if needDict || pos+5 > size {
			return 0, errCorrupt
		}
		if control < 0x80 {
			if control > 2 {
				return 0, errCorrupt
			}
			n := int(binary.BigEndian.Uint16(in[pos:])) + 1
			pos += 2
			if n > size-pos || n > len(out)-d.n {
				return 0, errCorrupt
			}
			copy(out[d.n:], in[pos:pos+n])
			d.n += n
			pos += n
			continue
		}
		limit := d.n + int(control&0x1f)<<16 + int(binary.BigEndian.Uint16(in[pos:])) + 1
		packed := int(binary.BigEndian.Uint16(in[pos+2:])) + 1
		pos += 4
		if control >= 0xc0 {
			if !d.setProps(in[pos]) {
				return 0, errCorrupt
			}
			pos++
			needProps = false
		}
		if control >= 0xa0 {
			d.resetState()
			needState = false
		}
		if needProps || needState || limit > len(out) || packed < 5 || packed > size-pos || in[pos] != 0 {
			return 0, errCorrupt
		}
		end := pos + packed
		d.rng, d.cod, d.pos = 0xffffffff, binary.BigEndian.Uint32(in[pos+1:]), pos+5
		if !d.symbols(limit, end) {
			return 0, errCorrupt
		}
		if d.rng < topValue {
			d.rng <<= 8
			d.cod = d.cod<<8 | uint32(d.in[d.pos])
			d.pos++
		}
		if d.pos != end || d.cod != 0 {
			return 0, errCorrupt
		}
		pos = end
	}
}
