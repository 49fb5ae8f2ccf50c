package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// archive writes a tar archive of headers. Files have the same content, but for
// those that state one.
func archive(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		content := []byte(nil)
		if h.Typeflag == tar.TypeReg {
			content = []byte("content")
			if inner, ok := h.PAXRecords["test.content"]; ok {
				content = []byte(inner)
				delete(h.PAXRecords, "test.content")
			}
			h.Size = int64(len(content))
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func write(t *testing.T, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tree.tar")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func plain(name string, change func(*tar.Header)) tar.Header {
	h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Uid: 1, Gid: 2, ModTime: time.Unix(1000, 0)}
	if change != nil {
		change(&h)
	}
	return h
}

func TestDifferences(t *testing.T) {
	inner := string(archive(t, plain("x", nil)))
	innerMode := string(archive(t, plain("x", func(h *tar.Header) { h.Mode = 0o600 })))
	cases := map[string]struct {
		want, got []tar.Header
		lines     string
	}{
		"equal": {
			want: []tar.Header{plain("./a", nil), plain("./b", nil)},
			got:  []tar.Header{plain("b", nil), plain("a", nil)},
		},
		"missing and too many": {
			want:  []tar.Header{plain("a", nil)},
			got:   []tar.Header{plain("b", nil)},
			lines: "\"/a\" is missing: a file\n\"/b\" is too many: a file",
		},
		"mode, owner, time": {
			want: []tar.Header{plain("a", nil)},
			got: []tar.Header{plain("a", func(h *tar.Header) {
				h.Mode, h.Gid, h.ModTime = 0o4755, 3, time.Unix(1000, 5)
			})},
			lines: "\"/a\" has another mode: 4755 instead of 0644\n\"/a\" has another owner: 1:3 instead of 1:2\n" +
				"\"/a\" has another time: 1970-01-01T00:16:40.000000005Z instead of 1970-01-01T00:16:40Z",
		},
		"content": {
			want:  []tar.Header{plain("a", func(h *tar.Header) { h.PAXRecords = map[string]string{"test.content": "1"} })},
			got:   []tar.Header{plain("a", func(h *tar.Header) { h.PAXRecords = map[string]string{"test.content": "2"} })},
			lines: `"/a" has another content:`,
		},
		"attributes": {
			want: []tar.Header{plain("a", func(h *tar.Header) {
				h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "1", "SCHILY.acl.access": "u::r"}
			})},
			got: []tar.Header{plain("a", func(h *tar.Header) {
				h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "2", "SCHILY.xattr.user.y": "3"}
			})},
			lines: "\"/a\" has another acl.access: not there instead of \"u::r\"\n\"/a\" has another xattr.user.x: \"2\" instead of \"1\"\n" +
				"\"/a\" has another xattr.user.y: \"3\" instead of not there",
		},
		"hard link or copy": {
			want:  []tar.Header{plain("a", nil), {Typeflag: tar.TypeLink, Name: "b", Linkname: "a"}},
			got:   []tar.Header{plain("a", nil), plain("b", nil)},
			lines: "\"/a\" has another names: /a instead of /a /b\n\"/b\" has another names: /b instead of /a /b",
		},
		"symbolic link": {
			want:  []tar.Header{{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "x"}},
			got:   []tar.Header{{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "y"}},
			lines: `"/a" has another target: y instead of x`,
		},
		"type": {
			want:  []tar.Header{{Typeflag: tar.TypeFifo, Name: "a"}},
			got:   []tar.Header{{Typeflag: tar.TypeDir, Name: "a"}},
			lines: `"/a" has another type: folder instead of pipe`,
		},
		"device": {
			want:  []tar.Header{{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1, Devminor: 3}},
			got:   []tar.Header{{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1, Devminor: 5}},
			lines: `"/a" has another device: 1:5 instead of 1:3`,
		},
		"inside an archive": {
			want:  []tar.Header{plain("a.tar", func(h *tar.Header) { h.PAXRecords = map[string]string{"test.content": inner} })},
			got:   []tar.Header{plain("a.tar", func(h *tar.Header) { h.PAXRecords = map[string]string{"test.content": innerMode} })},
			lines: `"/a.tar!/x" has another mode: 0600 instead of 0644`,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			lines, err := run(write(t, archive(t, c.want...)), write(t, archive(t, c.got...)), "", nil)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(lines, "\n")
			if c.lines == "" && got != "" || !strings.HasPrefix(got, c.lines) {
				t.Errorf("got\n%s\nwant\n%s", got, c.lines)
			}
		})
	}
}

// TestExcept sees that an exception has to be one.
func TestExcept(t *testing.T) {
	mode := func(h *tar.Header) { h.Mode = 0o600 }
	want := write(t, archive(t, plain("a", nil), plain("b", nil), plain("c", nil)))
	got := write(t, archive(t, plain("a", mode), plain("b", mode), plain("c", nil)))
	lines, err := run(want, got, "", map[string]bool{"/a": false, "/c": false})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(lines, "\n")
	if text != "\"/b\" has another mode: 0600 instead of 0644\n\"/c\" is excepted but does not differ" {
		t.Errorf("got\n%s", text)
	}
}

// TestAgain sees that what two builds of the same differ in is not asked of a
// third, if it is a time, and is told otherwise.
func TestAgain(t *testing.T) {
	at := func(sec int64) func(*tar.Header) {
		return func(h *tar.Header) { h.ModTime = time.Unix(sec, 0) }
	}
	want := write(t, archive(t, plain("loose", at(1)), plain("fixed", at(1)), plain("c", nil)))
	again := write(t, archive(t, plain("loose", at(2)), plain("fixed", at(1)), plain("c", func(h *tar.Header) { h.Mode = 0o600 })))
	got := write(t, archive(t, plain("loose", at(3)), plain("fixed", at(3)), plain("c", nil)))
	lines, err := run(want, got, again, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(lines, "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `differ: "/c" has another mode: 0600`) || !strings.HasPrefix(lines[1], `"/fixed" has another time:`) {
		t.Errorf("got\n%s", text)
	}
}
