package overlay

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
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
