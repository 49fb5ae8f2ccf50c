package qcow2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/ossify/ossify/sparse"
)

// source is the contents of a disk: segments in order, zeros between them.
type source struct {
	size     int64
	segments []Segment
}

// newSource checks the segments and sorts a copy of them.
func newSource(size int64, segments []Segment) (*source, error) {
	if size < 0 || size > math.MaxInt64-sectorSize {
		return nil, fmt.Errorf("disk size %d is out of range", size)
	}
	s := &source{size: size, segments: slices.Clone(segments)}
	slices.SortStableFunc(s.segments, func(a, b Segment) int {
		switch {
		case a.Offset < b.Offset:
			return -1
		case a.Offset > b.Offset:
			return 1
		}
		return 0
	})
	end := int64(0)
	for _, g := range s.segments {
		if g.Offset < 0 || g.Length < 0 || g.FileOffset < 0 || g.FileOffset > math.MaxInt64-g.Length {
			return nil, fmt.Errorf("segment at %d (length %d, file offset %d) is out of range", g.Offset, g.Length, g.FileOffset)
		}
		if g.Offset < end {
			return nil, fmt.Errorf("segment at %d overlaps the one before it, which ends at %d", g.Offset, end)
		}
		if g.Length > size-g.Offset {
			return nil, fmt.Errorf("segment at %d of %d bytes does not fit into the disk of %d bytes", g.Offset, g.Length, size)
		}
		if err := checkLength(g); err != nil {
			return nil, err
		}
		end = g.Offset + g.Length
	}
	return s, nil
}

// checkLength refuses a segment longer than its file: SEEK_DATA could not tell
// the missing end from a hole.
func checkLength(g Segment) error {
	f, ok := g.File.(*os.File)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("segment at %d: %w", g.Offset, err)
	}
	if info.Mode().IsRegular() && g.FileOffset+g.Length > info.Size() {
		return fmt.Errorf("segment at %d ends at byte %d of %s, which has only %d", g.Offset, g.FileOffset+g.Length, f.Name(), info.Size())
	}
	return nil
}

// next returns the first range of the disk at or after pos that may hold
// something else than zeros; start is -1 if there is none.
func (s *source) next(pos int64) (start, end int64, err error) {
	for _, g := range s.segments {
		segmentEnd := g.Offset + g.Length
		if segmentEnd <= pos {
			continue
		}
		from := max(pos, g.Offset)
		f, ok := g.File.(*os.File)
		if !ok {
			return from, segmentEnd, nil
		}
		toDisk := g.Offset - g.FileOffset
		data, hole, err := sparse.Data(f, from-toDisk, segmentEnd-toDisk)
		if err != nil {
			return 0, 0, fmt.Errorf("cannot find the holes of %s: %w", f.Name(), err)
		}
		if data >= 0 {
			return data + toDisk, hole + toDisk, nil
		}
	}
	return -1, -1, nil
}

// read fills p with the disk's contents at off, which may reach beyond the
// disk's end: zeros are there. Safe for concurrent use.
func (s *source) read(p []byte, off int64) error {
	for _, g := range s.segments {
		if len(p) == 0 {
			return nil
		}
		if g.Offset+g.Length <= off {
			continue
		}
		if gap := g.Offset - off; gap > 0 {
			n := min(gap, int64(len(p)))
			clear(p[:n])
			p, off = p[n:], off+n
			if len(p) == 0 {
				return nil
			}
		}
		n := min(g.Offset+g.Length-off, int64(len(p)))
		got, err := g.File.ReadAt(p[:n], g.FileOffset+off-g.Offset)
		if int64(got) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("cannot read the disk's contents at %d: %w", off+int64(got), err)
		}
		p, off = p[n:], off+n
	}
	clear(p)
	return nil
}

// isZero reports whether p, which is not empty, holds only zeros.
func isZero(p []byte) bool {
	return p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}
