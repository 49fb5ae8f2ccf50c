package unxz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz"
)

// maxBlock is the largest block, in bytes, that is decoded into one buffer.
// dpkg-deb's multi-threaded xz writes at most 192 MiB (level 9).
const maxBlock = 192 << 20

// maxBlocks bounds the index of a stream.
const maxBlocks = 1 << 16

const (
	headerSize = 12
	footerSize = 12
)

// Reader reads the decompressed bytes of an xz stream. It is not safe for
// concurrent use.
type Reader struct {
	cur    []byte
	buf    []byte // backs cur, goes to free
	ahead  []chan decoded
	free   chan []byte
	start  func() (chan decoded, bool)
	err    error
	stream io.Reader
}

type decoded struct {
	data []byte
	err  error
}

// block is one block: its place and padded length in the file, its size unpacked.
type block struct{ offset, raw, size int64 }

// NewReader reads the index of the stream in the size bytes of r and returns a
// reader that decodes up to width blocks at the same time. Callers read until
// an error or io.EOF; nothing needs to be closed.
func NewReader(r io.ReaderAt, size int64, width int) (*Reader, error) {
	check, blocks, err := readIndex(r, size)
	if err != nil {
		return nil, fmt.Errorf("read xz index: %w", err)
	}
	for _, b := range blocks {
		if b.size > maxBlock {
			stream, err := xz.NewReader(io.NewSectionReader(r, 0, size))
			if err != nil {
				return nil, err
			}
			return &Reader{stream: stream}, nil
		}
	}
	width = max(1, min(width, len(blocks)))
	x := &Reader{free: make(chan []byte, width+1)}
	next := 0
	x.start = func() (chan decoded, bool) {
		if next == len(blocks) {
			return nil, false
		}
		b := blocks[next]
		next++
		var buf []byte
		select {
		case buf = <-x.free:
		default:
		}
		ch := make(chan decoded, 1)
		go func() {
			if int64(cap(buf)) < b.size {
				buf = make([]byte, b.size)
			}
			buf = buf[:b.size]
			raw := make([]byte, b.raw+symbolInput)
			if _, err := r.ReadAt(raw[:b.raw], b.offset); err != nil {
				ch <- decoded{err: fmt.Errorf("read xz block: %w", err)}
				return
			}
			ch <- decoded{buf, decodeBlock(new(lzma), buf, raw[:b.raw], check)}
		}()
		return ch, true
	}
	for range width {
		if ch, ok := x.start(); ok {
			x.ahead = append(x.ahead, ch)
		}
	}
	return x, nil
}

// Read implements io.Reader.
func (x *Reader) Read(p []byte) (int, error) {
	if x.stream != nil {
		return x.stream.Read(p)
	}
	for len(x.cur) == 0 {
		if x.err != nil {
			return 0, x.err
		}
		if x.buf != nil {
			x.free <- x.buf
			x.buf = nil
		}
		if len(x.ahead) == 0 {
			x.err = io.EOF
			continue
		}
		got := <-x.ahead[0]
		x.ahead = x.ahead[1:]
		if got.err != nil {
			x.err = got.err
			continue
		}
		x.cur, x.buf = got.data, got.data
		if ch, ok := x.start(); ok {
			x.ahead = append(x.ahead, ch)
		}
	}
	n := copy(p, x.cur)
	x.cur = x.cur[n:]
	return n, nil
}

// readIndex returns the kind of check and the blocks of a file that is one
// stream, as xz-file-format.txt lays it out:
//
//	header | block ... | index | footer
func readIndex(r io.ReaderAt, size int64) (byte, []block, error) {
	if size < headerSize+footerSize+8 || size%4 != 0 {
		return 0, nil, errors.New("file is too short or cut off")
	}
	head, foot := make([]byte, headerSize), make([]byte, footerSize)
	if _, err := r.ReadAt(head, 0); err != nil {
		return 0, nil, err
	}
	if _, err := r.ReadAt(foot, size-footerSize); err != nil {
		return 0, nil, err
	}
	if !bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")) {
		return 0, nil, errors.New("not an xz file")
	}
	if string(foot[10:]) != "YZ" || !bytes.Equal(head[6:8], foot[8:10]) || head[6] != 0 ||
		crc32.ChecksumIEEE(head[6:8]) != binary.LittleEndian.Uint32(head[8:]) ||
		crc32.ChecksumIEEE(foot[4:10]) != binary.LittleEndian.Uint32(foot) {
		return 0, nil, errCorrupt
	}
	check := head[7]
	if _, err := newCheck(check); err != nil {
		return 0, nil, err
	}
	indexLen := (int64(binary.LittleEndian.Uint32(foot[4:])) + 1) * 4
	if indexLen > size-headerSize-footerSize || indexLen > maxBlocks*20 {
		return 0, nil, errCorrupt
	}
	raw := make([]byte, indexLen)
	if _, err := r.ReadAt(raw, size-footerSize-indexLen); err != nil {
		return 0, nil, err
	}
	body := raw[:indexLen-4]
	if body[0] != 0 || crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(raw[indexLen-4:]) {
		return 0, nil, errCorrupt
	}
	blocks, err := parseBlocks(body[1:], size-footerSize-indexLen)
	return check, blocks, err
}

// parseBlocks parses the records of an index whose blocks end at end.
func parseBlocks(p []byte, end int64) ([]block, error) {
	number := func() int64 {
		v, n := binary.Uvarint(p)
		if n <= 0 || v >= 1<<62 {
			p = nil
			return -1
		}
		p = p[n:]
		return int64(v)
	}
	count := number()
	if count < 0 || count > maxBlocks {
		return nil, errCorrupt
	}
	blocks := make([]block, 0, count)
	offset := int64(headerSize)
	for range count {
		unpadded, size := number(), number()
		if unpadded < 5 || size < 0 || unpadded > end {
			return nil, errCorrupt
		}
		padded := (unpadded + 3) &^ 3
		if padded > end-offset {
			return nil, errCorrupt
		}
		blocks = append(blocks, block{offset, padded, size})
		offset += padded
	}
	if offset != end {
		return nil, fmt.Errorf("%w: more than one stream, or bytes outside of the blocks", errCorrupt)
	}
	return blocks, nil
}
