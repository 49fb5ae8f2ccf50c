package fat

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// image makes a FAT with mkfs.fat.
func image(t *testing.T, size int64, args ...string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	command(t, "/usr/sbin/mkfs.fat", append(args, f.Name())...)
	return f
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C.UTF-8", "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// tree makes a directory with the files: names with content; one that ends in a
// slash is a directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	when := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	for name, content := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else if err == nil {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, when, when)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// list is what is in a directory, line by line.
func list(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		sum := ""
		if !entry.IsDir() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = fmt.Sprintf("%x", sha256.Sum256(data))
		}
		fmt.Fprintln(&out, strings.TrimPrefix(path, dir), info.ModTime().UTC().Format(time.RFC3339), sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestRefill fills filesystems of all kinds twice, and looks at them with tools
// that others wrote.
func TestRefill(t *testing.T) {
	large := make([]byte, 5<<20+17)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(large)
	files := map[string]string{
		"EFI/BOOT/BOOTX64.EFI": string(large), "EFI/fedora/grubx64.efi": strings.Repeat("g", 70000), "EFI/fedora/grub.cfg": "set x\n",
		"EFI/a long name with spaces.and.dots": "x", "été/ω": "names", "empty": "", "loader/entries/": "", "exact": strings.Repeat("e", 2048),
	}
	for i := range 60 { // more than a cluster of a directory
		files[fmt.Sprintf("many/a rather long name of a file %d.conf", i)] = fmt.Sprint(i)
	}
	for _, kind := range []struct {
		name string
		size int64
		args []string
	}{
		{"fat12", 8 << 20, []string{"-F", "12"}}, {"fat16", 64 << 20, []string{"-F", "16"}}, {"fat32", 300 << 20, []string{"-F", "32", "-s", "1"}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			f := image(t, kind.size, append(kind.args, "-n", "ESP", "-i", "7B7795E7")...)
			old, err := Open(f)
			if err != nil {
				t.Fatal(err)
			}
			if err := old.Refill(tree(t, map[string]string{"old/file": "old", "EFI/x": string(large[:1<<20])})); err != nil {
				t.Fatal(err)
			}
			dir := tree(t, files)
			if err := old.Refill(dir); err != nil {
				t.Fatal(err)
			}
			if said := command(t, "/usr/sbin/fsck.fat", "-n", "-v", f.Name()); strings.Contains(said, "Dirty") {
				t.Errorf("fsck: %s", said)
			}
			if said := command(t, "/usr/sbin/blkid", "-p", f.Name()); !strings.Contains(said, `LABEL="ESP"`) || !strings.Contains(said, `UUID="7B77-95E7"`) {
				t.Errorf("blkid: %s", said)
			}
			back := t.TempDir()
			command(t, "mcopy", "-s", "-m", "-n", "-i", f.Name(), "::/*", back)
			want := list(t, dir)
			got := list(t, back)
			if noTimes(got) != noTimes(want) {
				t.Errorf("mcopy sees\n%s\nwant\n%s", got, want)
			}
			fresh, err := Open(f)
			if err != nil {
				t.Fatal(err)
			}
			again := t.TempDir()
			if err := fresh.Extract(again, 0o022); err != nil {
				t.Fatal(err)
			}
			if got := list(t, again); got != want {
				t.Errorf("extracted\n%s\nwant\n%s", got, want)
			}
			before := sum(t, f)
			if err := fresh.Refill(again); err != nil {
				t.Fatal(err)
			}
			if sum(t, f) != before {
				t.Error("the same content makes other bytes")
			}
		})
	}
}

// noTimes leaves out times, which mcopy keeps of files only.
func noTimes(list string) string {
	var out []string
	for line := range strings.Lines(list) {
		if words := strings.Split(strings.TrimSuffix(line, "\n"), " "); len(words) > 2 {
			out = append(out, strings.Join(words[:len(words)-2], " ")+" "+words[len(words)-1])
		}
	}
	return strings.Join(out, "\n")
}

func sum(t *testing.T, f *os.File) string {
	t.Helper()
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// TestForeign extracts what mtools wrote.
func TestForeign(t *testing.T) {
	f := image(t, 64<<20)
	dir := tree(t, map[string]string{"lower.txt": "a", "UPPER.TXT": "b", "Mixed Case.txt": "c", "dir/sub/x": "d"})
	command(t, "mcopy", "-s", "-m", "-i", f.Name(), dir+"/lower.txt", dir+"/UPPER.TXT", dir+"/Mixed Case.txt", dir+"/dir", "::/")
	opened, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	back := t.TempDir()
	if err := opened.Extract(back, 0o077); err != nil {
		t.Fatal(err)
	}
	if got, want := noTimes(list(t, back)), noTimes(list(t, dir)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	info, err := os.Stat(filepath.Join(back, "dir/sub/x"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v: %v", info.Mode(), err)
	}
}

// TestRefuses keeps a filesystem as it is if it cannot have what is asked for.
func TestRefuses(t *testing.T) {
	f := image(t, 8<<20)
	opened, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := opened.Refill(tree(t, map[string]string{"a": "a"})); err != nil {
		t.Fatal(err)
	}
	before := sum(t, f)
	link := tree(t, nil)
	if err := os.Symlink("a", filepath.Join(link, "link")); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		link:                                  "/link is neither a file nor a directory",
		tree(t, map[string]string{"a:b": ""}): `"a:b" is no name for a FAT`,
		tree(t, map[string]string{"x.": ""}):  `"x." is no name for a FAT`,
		tree(t, map[string]string{"README": "", "Readme": ""}): "are one name for a FAT",
	} {
		if err := opened.Refill(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if sum(t, f) != before {
		t.Error("the filesystem was changed")
	}
	large := make([]byte, 9<<20)
	if err := opened.Refill(tree(t, map[string]string{"large": string(large)})); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("a full filesystem: %v", err)
	}
	if _, err := f.WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(f); err == nil || !strings.Contains(err.Error(), "no FAT filesystem") {
		t.Errorf("no filesystem: %v", err)
	}
}

// FuzzParse looks for boot sectors that lead outside.
func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var boot [512]byte
		copy(boot[:], data)
		l, err := parse(&boot)
		if err != nil {
			return
		}
		if l.tableAt <= 0 || l.tableSize <= 0 || l.rootAt < l.tableAt+int64(l.tables)*l.tableSize || l.dataAt > l.size || l.rootAt+l.rootSize > l.size {
			t.Errorf("%+v", l)
		}
	})
}
