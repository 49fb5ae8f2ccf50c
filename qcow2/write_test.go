package qcow2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// qemuImg runs qemu-img and returns its output; a missing qemu-img fails.
func qemuImg(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// checkImage asks qemu whether an image is clean and holds what raw holds.
func checkImage(t *testing.T, image, raw string) {
	t.Helper()
	var report struct {
		CheckErrors int `json:"check-errors"`
		Corruptions int `json:"corruptions"`
		Leaks       int `json:"leaks"`
	}
	out := qemuImg(t, "check", "--output=json", "-f", "qcow2", image)
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("qemu-img check: %v\n%s", err, out)
	}
	if report.CheckErrors != 0 || report.Corruptions != 0 || report.Leaks != 0 {
		t.Fatalf("qemu-img check finds faults:\n%s", out)
	}
	qemuImg(t, "compare", "-f", "qcow2", "-F", "raw", image, raw)
}

func writeImage(t *testing.T, path string, size int64, segments []Segment, opts Options) {
	t.Helper()
	dst := create(t, path)
	if err := Write(t.Context(), dst, size, segments, opts); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// chunk is data at an offset of a test disk.
type chunk struct {
	off  int64
	data []byte
}

// rawFile makes a file of size bytes with holes wherever no chunk is.
func rawFile(t *testing.T, path string, size int64, chunks []chunk) *os.File {
	t.Helper()
	f := create(t, path)
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		if _, err := f.WriteAt(c.data, c.off); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(p)
	return p
}

func prose(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "line %d of the log: unit %x changed to state %d\n", b.Len(), r.IntN(5000), r.IntN(9))
	}
	return b.Bytes()[:n]
}

// octal is data that compresses to about three eighths, cluster by cluster.
func octal(n int) []byte {
	p := noise(9, n)
	for i := range p {
		p[i] &= 7
	}
	return p
}

type disk struct {
	name   string
	size   int64
	chunks []chunk
}

func disks() []disk {
	mixed := disk{name: "mixed", size: 9<<20 + 12345}
	for i := range int64(40) {
		off := i * 230001
		switch i % 4 {
		case 0:
			mixed.chunks = append(mixed.chunks, chunk{off, noise(uint64(i), 150000)})
		case 1:
			mixed.chunks = append(mixed.chunks, chunk{off, prose(200000)})
		case 2:
			mixed.chunks = append(mixed.chunks, chunk{off, make([]byte, 140000)})
		case 3:
			mixed.chunks = append(mixed.chunks, chunk{off, octal(90000)})
		}
	}
	return []disk{
		{"empty", 0, nil},
		{"one zero byte", 1, nil},
		{"one byte", 1, []chunk{{0, []byte{7}}}},
		{"less than a sector", 511, []chunk{{500, []byte("end")}}},
		{"one cluster", 65536, []chunk{{0, prose(65536)}}},
		{"one cluster and a byte", 65537, []chunk{{0, noise(1, 65537)}}},
		{"only holes", 5 << 20, nil},
		{"last byte", 5<<20 + 3, []chunk{{5<<20 + 2, []byte{1}}}},
		{"noise", 3<<20 + 7, []chunk{{0, noise(2, 3<<20+7)}}},
		{"prose", 3<<20 + 1000, []chunk{{0, prose(3<<20 + 1000)}}},
		{"one value", 8 << 20, []chunk{{0, bytes.Repeat([]byte{0x55}, 8<<20)}}},
		mixed,
	}
}

func TestWrite(t *testing.T) {
	for _, d := range disks() {
		t.Run(d.name, func(t *testing.T) {
			dir := t.TempDir()
			raw := filepath.Join(dir, "raw")
			src := rawFile(t, raw, d.size, d.chunks)
			for _, clusterSize := range []int{512, 4096, 65536, 2 << 20} {
				for _, compression := range []Compression{None, Zlib, Zstd} {
					t.Run(fmt.Sprintf("%v-%d", compression, clusterSize), func(t *testing.T) {
						image := filepath.Join(dir, "image")
						writeImage(t, image, d.size, []Segment{{File: src, Length: d.size}},
							Options{ClusterSize: clusterSize, Compression: compression})
						checkImage(t, image, raw)
					})
				}
			}
		})
	}
}

// Every level must give a stream that qemu reads.
func TestLevels(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	d := disks()[len(disks())-1]
	src := rawFile(t, raw, d.size, d.chunks)
	for compression, levels := range map[Compression][]int{Zlib: {1, 2, 3, 4, 5, 6, 7, 8, 9}, Zstd: {1, 3, 9, 22}} {
		for _, level := range levels {
			t.Run(fmt.Sprintf("%v-%d", compression, level), func(t *testing.T) {
				image := filepath.Join(dir, "image")
				writeImage(t, image, d.size, []Segment{{File: src, Length: d.size}}, Options{Compression: compression, Level: level})
				checkImage(t, image, raw)
			})
		}
	}
}

// What qemu believes the image is.
func TestInfo(t *testing.T) {
	for _, tc := range []struct {
		opts Options
		want string
	}{
		{Options{}, "65536 1536 1.1 zlib 16"},
		{Options{ClusterSize: 4096, Compression: Zlib}, "4096 1536 1.1 zlib 16"},
		{Options{Compression: Zstd}, "65536 1536 1.1 zstd 16"},
	} {
		image := filepath.Join(t.TempDir(), "image")
		writeImage(t, image, 1025, []Segment{{File: bytes.NewReader(prose(1025)), Length: 1025}}, tc.opts)
		var info struct {
			VirtualSize int64 `json:"virtual-size"`
			ClusterSize int64 `json:"cluster-size"`
			Specific    struct {
				Data struct {
					Compat          string `json:"compat"`
					CompressionType string `json:"compression-type"`
					RefcountBits    int    `json:"refcount-bits"`
				} `json:"data"`
			} `json:"format-specific"`
		}
		if err := json.Unmarshal(qemuImg(t, "info", "--output=json", image), &info); err != nil {
			t.Fatal(err)
		}
		data := info.Specific.Data
		got := fmt.Sprintln(info.ClusterSize, info.VirtualSize, data.Compat, data.CompressionType, data.RefcountBits)
		if strings.TrimSpace(got) != tc.want {
			t.Errorf("%+v: got %s, want %s", tc.opts, got, tc.want)
		}
	}
}

// Threads, holes and the kind of source leave no mark on the bytes.
func TestSameBytes(t *testing.T) {
	dir := t.TempDir()
	d := disks()[len(disks())-1]
	sparse := rawFile(t, filepath.Join(dir, "sparse"), d.size, d.chunks)
	whole := make([]byte, d.size)
	if _, err := sparse.ReadAt(whole, 0); err != nil {
		t.Fatal(err)
	}
	full := rawFile(t, filepath.Join(dir, "full"), d.size, []chunk{{0, whole}})
	var pieces []Segment
	for off := int64(0); off < d.size; off += 100003 {
		pieces = append(pieces, Segment{off, sparse, off, min(100003, d.size-off)})
	}
	rand.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })

	sources := map[string][]Segment{
		"sparse file": {{File: sparse, Length: d.size}},
		"full file":   {{File: full, Length: d.size}},
		"memory":      {{File: bytes.NewReader(whole), Length: d.size}},
		"pieces":      pieces,
	}
	for _, compression := range []Compression{None, Zlib, Zstd} {
		want, wantName := [32]byte{}, ""
		for name, segments := range sources {
			for _, threads := range []int{1, 2, 7} {
				image := filepath.Join(dir, "image")
				writeImage(t, image, d.size, segments, Options{Compression: compression, Threads: threads})
				data, err := os.ReadFile(image)
				if err != nil {
					t.Fatal(err)
				}
				got, gotName := sha256.Sum256(data), fmt.Sprintf("%s with %d threads", name, threads)
				if wantName == "" {
					want, wantName = got, gotName
				}
				if got != want {
					t.Errorf("%v: %s and %s give different images", compression, gotName, wantName)
				}
			}
		}
	}
}

// A disk as the disk package makes it: table, core image, filesystems, backup
// table, with gaps and without regard for clusters.
func TestSegments(t *testing.T) {
	dir := t.TempDir()
	const size = 20<<20 + 512
	fs1 := rawFile(t, filepath.Join(dir, "fs1"), 6<<20, []chunk{{4096, prose(1 << 20)}, {5 << 20, octal(300000)}})
	fs2 := rawFile(t, filepath.Join(dir, "fs2"), 9<<20, []chunk{{1 << 20, noise(3, 1<<20)}, {9<<20 - 100, noise(4, 100)}})
	table, core, backup := noise(5, 512), noise(6, 31337), noise(7, 33*512)
	segments := []Segment{
		{Offset: size - int64(len(backup)), File: bytes.NewReader(backup), Length: int64(len(backup))},
		{Offset: 0, File: bytes.NewReader(table), Length: 512},
		{Offset: 512, File: bytes.NewReader(core), Length: int64(len(core))},
		{Offset: 1<<20 + 1024, File: fs1, Length: 6 << 20},
		{Offset: 8<<20 + 3, File: fs2, FileOffset: 1<<20 - 5, Length: 8<<20 + 5},
		{Offset: 8 << 20, File: fs2},
	}
	raw := make([]byte, size)
	for _, g := range segments {
		if _, err := g.File.ReadAt(raw[g.Offset:g.Offset+g.Length], g.FileOffset); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	rawPath := filepath.Join(dir, "raw")
	if err := os.WriteFile(rawPath, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, compression := range []Compression{None, Zlib, Zstd} {
		image := filepath.Join(dir, "image")
		writeImage(t, image, size, segments, Options{Compression: compression})
		checkImage(t, image, rawPath)
	}
}

// A disk of one TiB with little in it gives a small image, and soon.
func TestLargeSparse(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	const size = 1 << 40
	src := rawFile(t, raw, size, []chunk{
		{0, prose(70000)}, {1<<30 - 5, noise(1, 10)}, {1<<39 + 7, prose(200000)}, {size - 4096, noise(2, 4096)},
	})
	for _, compression := range []Compression{None, Zlib, Zstd} {
		image := filepath.Join(dir, "image")
		writeImage(t, image, size, []Segment{{File: src, Length: size}}, Options{Compression: compression})
		checkImage(t, image, raw)
		info, err := os.Stat(image)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 2<<20 {
			t.Errorf("%v: image of %d bytes for less than 300 KB of data", compression, info.Size())
		}
	}
}

// Compressed clusters share host clusters, also where raw ones lie between.
func TestPacking(t *testing.T) {
	const cluster = DefaultClusterSize
	var data []byte
	for i := range 64 {
		data = append(data, noise(uint64(i), cluster)...)
		data = append(data, octal(cluster)...)
	}
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	src := rawFile(t, raw, int64(len(data)), []chunk{{0, data}})
	image := filepath.Join(dir, "image")
	writeImage(t, image, int64(len(data)), []Segment{{File: src, Length: int64(len(data))}}, Options{Compression: Zlib})
	checkImage(t, image, raw)
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	// 64 raw clusters, 64 compressed ones two by two, and the tables.
	if limit := int64(64+32+5) * cluster; info.Size() > limit {
		t.Errorf("image has %d bytes, more than %d", info.Size(), limit)
	}
}

func TestProgress(t *testing.T) {
	d := disks()[len(disks())-1]
	dir := t.TempDir()
	src := rawFile(t, filepath.Join(dir, "raw"), d.size, d.chunks)
	last, calls := int64(0), 0
	writeImage(t, filepath.Join(dir, "image"), d.size, []Segment{{File: src, Length: d.size}}, Options{
		Progress: func(done, total int64) {
			if done < last || done > total || total != d.size {
				t.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
			calls++
		},
	})
	if last != d.size || calls < 3 {
		t.Errorf("%d reports, the last of %d bytes; want %d", calls, last, d.size)
	}
}

func TestCancel(t *testing.T) {
	data := noise(1, 32<<20)
	segments := []Segment{{File: bytes.NewReader(data), Length: int64(len(data))}}
	for _, compression := range []Compression{None, Zlib, Zstd} {
		ctx, cancel := context.WithCancel(t.Context())
		opts := Options{Compression: compression, Progress: func(done, total int64) {
			if done == total {
				t.Errorf("%v: ran to the end", compression)
			}
			cancel()
		}}
		err := Write(ctx, create(t, filepath.Join(t.TempDir(), "image")), int64(len(data)), segments, opts)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v: cancelled under way: %v", compression, err)
		}
		err = Write(ctx, create(t, filepath.Join(t.TempDir(), "image")), int64(len(data)), segments, Options{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v: cancelled before: %v", compression, err)
		}
	}
}
