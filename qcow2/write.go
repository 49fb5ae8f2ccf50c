package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Compression is how data clusters are stored.
type Compression int

const (
	// None stores clusters as they are.
	None Compression = iota
	// Zlib stores raw deflate streams with a window of 4 KiB, which is what
	// every qemu since qcow2 began can read.
	Zlib
	// Zstd stores zstandard frames; qemu 5.1 or later reads them.
	Zstd
)

// String returns the name qemu-img uses for the compression type.
func (c Compression) String() string {
	switch c {
	case None:
		return "none"
	case Zlib:
		return "zlib"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("Compression(%d)", int(c))
}

// DefaultClusterSize is the cluster size, in bytes, used when none is asked
// for; it is qemu-img's default too.
const DefaultClusterSize = 64 << 10

const (
	minClusterBits = 9  // 512 bytes, MIN_CLUSTER_BITS of qemu
	maxClusterBits = 21 // 2 MiB, MAX_CLUSTER_BITS of qemu
	sectorSize     = 512
)

// Options shape an image. The zero value is an uncompressed image with
// clusters of 64 KiB.
type Options struct {
	// ClusterSize is in bytes: a power of two from 512 to 2 MiB; 0 means
	// DefaultClusterSize.
	ClusterSize int
	// Compression is None, Zlib or Zstd.
	Compression Compression
	// Level trades time for size; 0 means the default of the compression.
	// Zlib takes 1 to 9 (default 2, about the size of zlib at its level 6),
	// Zstd takes 1 to 22 as the zstd command (default 3); None takes
	// only 0.
	Level int
	// Threads is how many clusters are read and compressed at once; 0 means
	// GOMAXPROCS. It never changes the result.
	Threads int
	// Progress, if not nil, is told how many of the total bytes of the disk
	// are done, in growing order, from one goroutine at a time. The last
	// call has done equal to total, unless Write fails.
	Progress func(done, total int64)
}

// Segment is a piece of a disk's contents. What no segment covers is zero.
type Segment struct {
	// Offset is where in the disk the piece starts, in bytes.
	Offset int64
	// File holds the piece. Holes of an *os.File are found with
	// SEEK_DATA, which moves the file's position; reads use ReadAt, from
	// several goroutines. The file stays the caller's to close and must not
	// change meanwhile.
	File io.ReaderAt
	// FileOffset is where in File the piece starts, in bytes.
	FileOffset int64
	// Length is the number of bytes. All of them must be there.
	Length int64
}

// Write writes to dst a qcow2 image of a disk of size bytes made of segments,
// given in any order but not overlapping. A size that is not a multiple of 512
// is rounded up to one, because qemu counts disks in sectors.
//
// dst must be a regular file opened for writing. It is emptied first, stays the
// caller's to sync and close, and is no valid image after an error (the caller
// should remove it). A done ctx ends the work with ctx's error; a full
// filesystem gives an error that wraps syscall.ENOSPC.
func Write(ctx context.Context, dst *os.File, size int64, segments []Segment, opts Options) error {
	opts, err := opts.withDefaults()
	if err != nil {
		return fmt.Errorf("cannot write qcow2 image: %w", err)
	}
	if err := write(ctx, dst, size, segments, opts); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = fmt.Errorf("%w (free some space on the filesystem of %s)", err, dst.Name())
		}
		return fmt.Errorf("cannot write qcow2 image: %w", err)
	}
	return nil
}

func (o Options) withDefaults() (Options, error) {
	if o.ClusterSize == 0 {
		o.ClusterSize = DefaultClusterSize
	}
	if c := o.ClusterSize; c < 1<<minClusterBits || c > 1<<maxClusterBits || bits.OnesCount(uint(c)) != 1 {
		return o, fmt.Errorf("cluster size %d is not allowed: want a power of two from 512 to 2097152", c)
	}
	if o.Threads < 0 {
		return o, fmt.Errorf("%d threads are not allowed: want 1 or more, or 0 for one per processor", o.Threads)
	}
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	maxLevel, preset := 0, 0
	switch o.Compression {
	case None:
	case Zlib:
		maxLevel, preset = 9, 2
	case Zstd:
		maxLevel, preset = 22, 3
	default:
		return o, fmt.Errorf("unknown compression %d: want None, Zlib or Zstd", int(o.Compression))
	}
	if o.Level < 0 || o.Level > maxLevel {
		return o, fmt.Errorf("level %d is not allowed for compression %v: want 0 to %d", o.Level, o.Compression, maxLevel)
	}
	if o.Level == 0 {
		o.Level = preset
	}
	return o, nil
}

func write(ctx context.Context, dst *os.File, size int64, segments []Segment, opts Options) error {
	src, err := newSource(size, segments)
	if err != nil {
		return err
	}
	info, err := dst.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", dst.Name())
	}
	img, err := newImage(dst, size, opts)
	if err != nil {
		return err
	}
	if err := dst.Truncate(0); err != nil {
		return err
	}
	if err := run(ctx, src, img, opts); err != nil {
		return err
	}
	if err := img.finish(); err != nil {
		return err
	}
	if opts.Progress != nil {
		opts.Progress(size, size)
	}
	return nil
}
