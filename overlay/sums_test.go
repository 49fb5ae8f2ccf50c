package overlay

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSums changes one thing after the other in a directory and looks what CheckSums says.
func TestSums(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(dir string) error
		want   []string
	}{
		{"nothing", func(string) error { return nil }, nil},
		{"content", func(dir string) error { return flip(filepath.Join(dir, "a b\n"), 1) }, []string{"/a b\n: content differs", "/d/\xff\"hard: content differs"}},
		{"sparse content", func(dir string) error { return flip(filepath.Join(dir, "d/sparse"), 5<<20+17) }, []string{"/d/sparse: content differs"}},
		{"data in a hole", func(dir string) error { return flip(filepath.Join(dir, "d/sparse"), 8<<20) }, []string{"/d/sparse: content differs"}},
		{"zeros in a hole", func(dir string) error { return keepTime(filepath.Join(dir, "d/sparse"), make([]byte, 4096), 8<<20) }, nil},
		{"mode", func(dir string) error { return os.Chmod(filepath.Join(dir, "d"), 0o711) }, []string{"/d: mode is 40711, was 40755"}},
		{"time", func(dir string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, "link"), []unix.Timespec{{Sec: 1}, {Sec: 2, Nsec: 3}}, unix.AT_SYMLINK_NOFOLLOW)
		}, []string{"/link: time is 2.000000003, was 1.000000000"}},
		{"attribute", func(dir string) error { return unix.Setxattr(filepath.Join(dir, "d"), "user.x", []byte("z"), 0) }, []string{"/d: attributes differ"}},
		{"gone", func(dir string) error { return os.Remove(filepath.Join(dir, "d/sparse")) }, []string{"/d: time is", "/d/sparse: is gone"}},
		{"new", func(dir string) error { return os.WriteFile(filepath.Join(dir, "d/new"), nil, 0o600) }, []string{"/d: time is", "/d/new: was not there"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			makeSummed(t, dir)
			var sums bytes.Buffer
			if err := WriteSums(dir, &sums); err != nil {
				t.Fatal(err)
			}
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			var got []string
			if err := CheckSums(dir, &sums, func(path, what string) { got = append(got, path+": "+what) }); err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func makeSummed(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a b\n"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a b\n"), filepath.Join(dir, "d", "\xff\"hard")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a \"b", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "d/sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("data"), 5<<20+15); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(10<<20 + 1); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d/sparse", "a b\n", "link", "d"} {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), []unix.Timespec{{Sec: 1}, {Sec: 1}}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
}

// flip changes a byte and leaves the times, as a fault of the disk does.
func flip(path string, at int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 4
	return keepTime(path, b, at)
}

func keepTime(path string, data []byte, at int64) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(data, at); err != nil {
		return err
	}
	return os.Chtimes(path, st.ModTime(), st.ModTime())
}

// FuzzSums: what is read as sums ends neither the program nor finds a path twice.
func FuzzSums(f *testing.F) {
	f.Add([]byte("100644 0 0 1.000000001 - - - \"/a\"\n120777 0 0 1.0 - - - \"/b\" \"a\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = readSums(bytes.NewReader(data))
	})
}
