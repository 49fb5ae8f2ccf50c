package qcow2

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// compressor makes one cluster small. Each worker has its own.
type compressor interface {
	// compress appends the compressed form of cluster to dst.
	compress(dst, cluster []byte) ([]byte, error)
}

// newCompressor returns a compressor, or nil for None.
func newCompressor(opts Options) (compressor, error) {
	switch opts.Compression {
	case Zlib:
		return newDeflater(opts.Level), nil
	case Zstd:
		// A checksum would come behind the last byte qemu reads.
		enc, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(opts.Level)),
			zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(max(opts.ClusterSize, zstd.MinWindowSize)))
		if err != nil {
			return nil, fmt.Errorf("cannot start zstd at level %d: %w", opts.Level, err)
		}
		return zstdCompressor{enc}, nil
	}
	return nil, nil
}

type zstdCompressor struct{ enc *zstd.Encoder }

func (z zstdCompressor) compress(dst, cluster []byte) ([]byte, error) {
	return z.enc.EncodeAll(cluster, dst), nil
}
