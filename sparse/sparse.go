// Package sparse copies parts of files with their holes.
package sparse

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Data returns the first range of data in f that begins in [from, to), cut at to;
// start is -1 if there is none. A file that knows no holes is all data. It moves
// the file's position.
func Data(f *os.File, from, to int64) (start, end int64, err error) {
	start, err = f.Seek(from, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return -1, -1, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return from, to, nil
	case err != nil:
		return 0, 0, err
	case start >= to:
		return -1, -1, nil
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	return start, min(end, to), nil
}

// Copy copies n bytes of src from srcAt on to dstAt of dst, which is at least
// that long. Holes become holes. The kernel shares the blocks where the
// filesystem can (copy_file_range(2)). It moves the positions of both files.
func Copy(dst *os.File, dstAt int64, src *os.File, srcAt, n int64) error {
	for at := int64(0); at < n; {
		start, end, err := Data(src, srcAt+at, srcAt+n)
		if err != nil {
			return fmt.Errorf("find the holes of %s: %w", src.Name(), err)
		}
		if start < 0 {
			start, end = srcAt+n, srcAt+n
		}
		if err := clear(dst, dstAt+at, start-srcAt-at); err != nil {
			return fmt.Errorf("make a hole in %s: %w", dst.Name(), err)
		}
		if start < end {
			if _, err := src.Seek(start, io.SeekStart); err != nil {
				return err
			}
			if _, err := dst.Seek(dstAt+start-srcAt, io.SeekStart); err != nil {
				return err
			}
			if _, err := io.CopyN(dst, src, end-start); err != nil {
				return err
			}
		}
		at = end - srcAt
	}
	return nil
}

// clear makes n bytes of f a hole, if they are not one.
func clear(f *os.File, at, n int64) error {
	start, _, err := Data(f, at, at+n)
	if n == 0 || err == nil && start < 0 {
		return nil
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n); !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(f, at), io.LimitReader(zeros{}, n))
	return err
}

// zeros reads as zeros without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 0
	}
	return len(p), nil
}
