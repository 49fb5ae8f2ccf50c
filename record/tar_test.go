package record

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const someLabel = "system_u:object_r:etc_t:s0"

// TestCompleteTar labels what GNU tar writes: long names, sparse files, links.
func TestCompleteTar(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("n", 120)
	for name, content := range map[string]string{"a": "a", "d/x": strings.Repeat("x", 1000), "d/" + long: "l", "empty": ""} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("a", filepath.Join(dir, "link")), os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "z")),
		os.Truncate(filepath.Join(dir, "empty"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"posix", "ustar"} {
		args := []string{"--create", "--sort=name", "--format=" + format, "-C", dir}
		if format == "posix" {
			args = append(args, "--sparse", "--hole-detection=raw")
		}
		if format == "ustar" {
			args = append(args, "--exclude="+long)
		}
		plain, err := exec.Command("tar", append(args, ".")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, keyword := range []string{TarSELinux, TarXattr} {
			var out bytes.Buffer
			err := CompleteTar(&out, bytes.NewReader(plain), TarOptions{Keywords: []string{keyword}, Label: func(_ int, name string) string {
				if name == "./link" {
					return ""
				}
				return someLabel + ":" + name
			}, Devices: map[string]Device{"./null": {Kind: 'c', Major: 1, Minor: 3, Mode: 0o666, UID: 1, GID: 2}}, Epoch: 7})
			if err != nil {
				t.Fatal(err)
			}
			checkLabels(t, plain, out.Bytes(), keyword)
			list := exec.Command("tar", "--list", "--file=-")
			list.Stdin = &out
			if said, err := list.CombinedOutput(); err != nil {
				t.Errorf("%s: tar does not read it: %v: %s", format, err, said)
			}
		}
	}
}

// checkLabels compares members of two archives.
func checkLabels(t *testing.T, plain, labelled []byte, keyword string) {
	t.Helper()
	a, b := tar.NewReader(bytes.NewReader(plain)), tar.NewReader(bytes.NewReader(labelled))
	for {
		want, err := a.Next()
		got, errB := b.Next()
		if errors.Is(err, io.EOF) && errB == nil && got.Name == "./null" {
			if got.Typeflag != tar.TypeChar || got.Devmajor != 1 || got.Devminor != 3 || got.Mode != 0o666 || got.Uid != 1 || got.Gid != 2 || got.ModTime.Unix() != 7 || got.PAXRecords[keyword] == "" {
				t.Errorf("device: %+v", got)
			}
			got, errB = b.Next()
		}
		if errors.Is(err, io.EOF) && errors.Is(errB, io.EOF) {
			return
		}
		if err != nil || errB != nil {
			t.Fatal(err, errB)
		}
		wantLabel := someLabel + ":" + want.Name
		if keyword == TarXattr {
			wantLabel += "\x00"
		}
		if want.Name == "./link" {
			wantLabel = ""
		}
		if got.PAXRecords[keyword] != wantLabel {
			t.Errorf("%s: label %q", got.Name, got.PAXRecords[keyword])
		}
		wantData, err := io.ReadAll(a)
		gotData, errB := io.ReadAll(b)
		if err != nil || errB != nil || !bytes.Equal(wantData, gotData) || got.Name != want.Name || got.Size != want.Size || got.Linkname != want.Linkname || !got.ModTime.Equal(want.ModTime) {
			t.Errorf("%s became %s (%v, %v)", want.Name, got.Name, err, errB)
		}
	}
}

func TestCompleteTarRefuses(t *testing.T) {
	gnu := t.TempDir()
	if err := os.WriteFile(filepath.Join(gnu, strings.Repeat("n", 120)), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := exec.Command("tar", "--create", "--format=gnu", "-C", gnu, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		string(data):                  "format gnu",
		string(data[:700]):            "EOF",
		strings.Repeat("x", tarBlock): "no archive",
		"short":                       "EOF",
		"":                            "EOF",
	} {
		err := CompleteTar(io.Discard, strings.NewReader(text), TarOptions{Label: func(int, string) string { return "" }})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %q", text, err, want)
		}
	}
}

// FuzzCompleteTar: without labels every archive that is taken stays as it is.
func FuzzCompleteTar(f *testing.F) {
	var seed bytes.Buffer
	w := tar.NewWriter(&seed)
	for _, h := range []*tar.Header{
		{Name: "a", Size: 1, Mode: 0o644, PAXRecords: map[string]string{"VENDOR.x": "y"}},
		{Name: "l", Linkname: "a", Typeflag: tar.TypeSymlink},
	} {
		if err := w.WriteHeader(h); err != nil {
			f.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("x")); err != nil {
				f.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		n := 0
		if CompleteTar(&out, bytes.NewReader(data), TarOptions{Label: func(int, string) string { n++; return "" }}) != nil {
			return
		}
		count := TarOptions{Keywords: []string{TarSELinux}, Label: func(int, string) string { n--; return "l" }}
		if err := CompleteTar(io.Discard, bytes.NewReader(out.Bytes()), count); err != nil || n != 0 {
			t.Fatalf("the copy has %d members more or less: %v", n, err)
		}
	})
}
