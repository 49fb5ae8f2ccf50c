package qcow2

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// benchmarkDisk is 64 MiB of the kinds of data a system tree has.
func benchmarkDisk() []byte {
	var data []byte
	for i := range 8 {
		data = append(data, prose(3<<20)...)
		data = append(data, octal(2<<20)...)
		data = append(data, noise(uint64(i), 1<<20)...)
		data = append(data, make([]byte, 2<<20)...)
	}
	return data
}

func BenchmarkWrite(b *testing.B) {
	dir := b.TempDir()
	src, dst := benchFile(b, filepath.Join(dir, "raw")), benchFile(b, filepath.Join(dir, "image"))
	data := benchmarkDisk()
	if _, err := src.WriteAt(data, 0); err != nil {
		b.Fatal(err)
	}
	size := int64(len(data))
	for _, compression := range []Compression{None, Zlib, Zstd} {
		b.Run(compression.String(), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if err := Write(b.Context(), dst, size, []Segment{{File: src, Length: size}}, Options{Compression: compression}); err != nil {
					b.Fatal(err)
				}
			}
			reportSize(b, dst)
		})
	}
}

func BenchmarkDeflate(b *testing.B) {
	data := benchmarkDisk()[:8<<20]
	for _, level := range []int{1, 4, 6, 9} {
		b.Run(fmt.Sprint(level), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			d, packed := newDeflater(level), []byte(nil)
			size := 0
			for b.Loop() {
				size = 0
				for off := 0; off < len(data); off += DefaultClusterSize {
					packed, _ = d.compress(packed[:0], data[off:off+DefaultClusterSize])
					size += min(len(packed), DefaultClusterSize)
				}
			}
			b.ReportMetric(float64(size)/float64(len(data)), "ratio")
		})
	}
}

func benchFile(b *testing.B, path string) *os.File {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	return f
}

func reportSize(b *testing.B, f *os.File) {
	b.Helper()
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size())/1e6, "MB-image")
}
