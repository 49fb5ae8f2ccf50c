package overlay

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPack packs a directory and unpacks it: it is the same then, with whiteouts, holes and all.
func TestPack(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	makeSummed(t, dir)
	for _, err := range []error{
		unix.Mknod(filepath.Join(dir, "d/gone"), unix.S_IFCHR, 0),
		unix.Mkfifo(filepath.Join(dir, "d/fifo"), 0o640),
		os.Mkdir(filepath.Join(dir, "opaque"), 0o755),
		unix.Setxattr(filepath.Join(dir, "opaque"), opaqueAttribute, []byte("y"), 0),
		unix.Setxattr(filepath.Join(dir, "d"), "user.binary", []byte{0, 1, 255, '=', '\n'}, 0),
		unix.Setxattr(filepath.Join(dir, "d"), "user.empty", nil, 0),
		os.WriteFile(filepath.Join(dir, "zeros"), make([]byte, 3*holeBlock), 0o4755),
		os.Chmod(filepath.Join(dir, "zeros"), 0o4755|os.ModeSetuid),
		os.WriteFile(filepath.Join(dir, strings.Repeat("long", 60)), []byte("x"), 0o600),
		os.Chmod(dir, 0o751),
		(&Stack{Upper: dir}).markLinks(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var archive, again, sums bytes.Buffer
	if err := Pack(dir, &archive); err != nil {
		t.Fatal(err)
	}
	if err := Pack(dir, &again); err != nil || !bytes.Equal(archive.Bytes(), again.Bytes()) {
		t.Errorf("the same directory gives other bytes (%v)", err)
	}
	if err := Unpack(to, &archive); err != nil {
		t.Fatal(err)
	}
	if err := WriteSums(dir, &sums); err != nil {
		t.Fatal(err)
	}
	if err := CheckSums(to, &sums, func(path, what string) { t.Errorf("%s: %s", path, what) }); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(to, "d/sparse"), &st); err != nil || st.Blocks*512 > 2*holeBlock {
		t.Errorf("the holes are gone: %d bytes on disk (%v)", st.Blocks*512, err)
	}
	a, b := Tree{Dir: dir}, Tree{Dir: to}
	if err := Compare(a, b, func(d Difference) error { t.Errorf("differs: %+v", d); return nil }); err != nil {
		t.Fatal(err)
	}
}

// TestUnpackRefuses has archives that would reach outside of the directory, or make what nobody asked for.
func TestUnpackRefuses(t *testing.T) {
	file := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	for _, c := range []struct {
		name    string
		entries []*tar.Header
		want    string
	}{
		{"dot dot", []*tar.Header{file("../outside")}, "leads out"},
		{"absolute", []*tar.Header{file("/outside")}, "leads out"},
		{"through a link", []*tar.Header{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, file("l/outside")}, "escapes"},
		{"through an absolute link", []*tar.Header{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/"}, file("l/outside")}, "escapes"},
		{"over a link", []*tar.Header{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../outside"}, file("l")}, "exists"},
		{"hard link", []*tar.Header{{Typeflag: tar.TypeLink, Name: "l", Linkname: "../inside/x"}}, "escapes"},
		{"twice", []*tar.Header{file("a"), file("a")}, "exists"},
		{"device", []*tar.Header{{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}}, "device nodes"},
		{"whiteout of dot dot", []*tar.Header{file(".wh...")}, "hides nothing"},
		{"root is a file", []*tar.Header{file(".")}, "root of a layer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			top := t.TempDir()
			dir := filepath.Join(top, "inside")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			var archive bytes.Buffer
			w := tar.NewWriter(&archive)
			for _, h := range c.entries {
				if err := w.WriteHeader(h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			err := Unpack(dir, &archive)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, err := os.Lstat(filepath.Join(top, "outside")); err == nil {
				t.Error("a file was written outside")
			}
		})
	}
}

// TestUnpackSparse has archives whose files are zeros without end, or have ten million pieces.
func TestUnpackSparse(t *testing.T) {
	paxed := func(records map[string]string, data io.Reader, size int64) io.Reader {
		var b bytes.Buffer
		var body strings.Builder
		for key, value := range records { // archive/tar refuses to write these
			record := " " + key + "=" + value + "\n"
			n := len(record) + 2
			for len(strconv.Itoa(n))+len(record) != n {
				n++
			}
			fmt.Fprintf(&body, "%d%s", n, record)
		}
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x", Size: int64(body.Len())}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body.String())); err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/f", Size: size, Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		head := b.Bytes()
		head[156] = 'x'
		sum := 0
		copy(head[148:156], "        ")
		for _, c := range head[:512] {
			sum += int(c)
		}
		copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
		return io.MultiReader(bytes.NewReader(head), data)
	}
	pieces := strings.Repeat("0\n0\n", 10_000_000)
	for _, c := range []struct {
		name, want string
		archive    io.Reader
	}{
		{"exabytes", "no sparse files", paxed(map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "f", "GNU.sparse.realsize": "1152921504606846976"},
			strings.NewReader("0\n"+strings.Repeat("\x00", 510)), 512)},
		{"ten million pieces", "sparse", paxed(map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "f", "GNU.sparse.realsize": "1"},
			strings.NewReader("10000000\n"+pieces), 9+int64(len(pieces)))},
		{"the older form", "no sparse files", paxed(map[string]string{"GNU.sparse.map": "0,0", "GNU.sparse.numblocks": "1", "GNU.sparse.size": "1152921504606846976"}, strings.NewReader(""), 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := Unpack(t.TempDir(), c.archive)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 128<<20 {
				t.Errorf("%d bytes of memory were taken", n)
			}
		})
	}
}

// FuzzUnpack unpacks anything: nothing appears beside the directory.
func FuzzUnpack(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o644); err != nil {
		f.Fatal(err)
	}
	var archive bytes.Buffer
	if err := Pack(dir, &archive); err != nil {
		f.Fatal(err)
	}
	f.Add(archive.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "inside")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = Unpack(dir, io.LimitReader(bytes.NewReader(data), 1<<20))
		entries, err := os.ReadDir(top)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%v beside the layer (%v)", entries, err)
		}
	})
}
