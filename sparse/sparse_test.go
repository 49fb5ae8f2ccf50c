package sparse

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopy copies the middle of a file over another one's data.
func TestCopy(t *testing.T) {
	const block = 64 << 10
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	src, dst := open("src"), open("dst")
	if err := src.Truncate(10 * block); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{1, 4, 9} {
		if _, err := src.WriteAt(bytes.Repeat([]byte{byte(at)}, block), at*block); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := dst.Write(bytes.Repeat([]byte{0xff}, 12*block)); err != nil {
		t.Fatal(err)
	}
	if err := Copy(dst, 3*block, src, block, 7*block); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dst.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{0xff}, 12*block)
	for i := 3; i < 10; i++ {
		copy(want[i*block:], bytes.Repeat([]byte{map[int]byte{3: 1, 6: 4}[i]}, block))
	}
	if !bytes.Equal(got, want) {
		t.Error("the copy has other bytes")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dst.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 != 7*block {
		t.Errorf("the copy has %d bytes on the disk, want %d: five blocks are holes", st.Blocks*512, 7*block)
	}
	start, end, err := Data(src, 0, 10*block)
	if err != nil || start != block || end != 2*block {
		t.Errorf("data from %d to %d: %v", start, end, err)
	}
	if start, _, err := Data(src, 5*block, 9*block); err != nil || start != -1 {
		t.Errorf("data from %d in a hole: %v", start, err)
	}
}
