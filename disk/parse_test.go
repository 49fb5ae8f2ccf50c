package disk

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
)

// FuzzIdentify feeds what might be an image to every change of ids: errors are
// fine, panics are not.
func FuzzIdentify(f *testing.F) {
	f.Add("vmdk", []byte("# Disk DescriptorFile\nversion=1\nCID=12ab\nparentCID=ffffffff\n"))
	f.Add("vmdk", append([]byte("KDMV"), make([]byte, 60)...))
	f.Add("vpc", append([]byte("conectix"), make([]byte, 504)...))
	f.Add("vhdx", []byte("vhdxfile"))
	f.Fuzz(func(t *testing.T, format string, data []byte) {
		name := filepath.Join(t.TempDir(), "image")
		must(t, os.WriteFile(name, data, 0o600))
		if err := identify(format, name, "id", 0); err != nil {
			t.Log(err)
		}
	})
}

// FuzzExt4 feeds what might be a filesystem to the pass over its inodes.
func FuzzExt4(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte{16, 0, 0, 0}, []byte{0x53, 0xef})
	f.Fuzz(func(t *testing.T, head, magic []byte) {
		data := make([]byte, 16<<10)
		copy(data[superOffset:], head)
		copy(data[superOffset+0x38:superOffset+1024], magic)
		name := filepath.Join(t.TempDir(), "image")
		must(t, os.WriteFile(name, data, 0o600))
		image, err := os.OpenFile(name, os.O_RDWR, 0)
		must(t, err)
		defer image.Close()
		fs, err := openExt4(image, 0)
		if err == nil {
			err = fs.eachInode(func(int64, []byte) {})
		}
		t.Log(err)
	})
}

// TestGUIDBytes checks the mixed byte order of GUIDs in files.
func TestGUIDBytes(t *testing.T) {
	got := guidBytes("00112233-4455-6677-8899-aabbccddeeff")
	want := uuid.MustParse("33221100-5544-7766-8899-aabbccddeeff")
	if got != want {
		t.Errorf("got %x, want %x", got, want)
	}
}
