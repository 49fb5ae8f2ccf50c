package sources

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/module"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

func pack(t testing.TB, content string, open func(io.Writer) (io.WriteCloser, error)) string {
	t.Helper()
	var out bytes.Buffer
	w, err := open(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(out.Bytes())
}

func TestInline(t *testing.T) {
	asXZ := pack(t, "hello", func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
	asLZMA := pack(t, "hello", func(w io.Writer) (io.WriteCloser, error) { return lzma.NewWriter(w) })
	const md5Hello, sha1Hello = "md5:5d41402abc4b2a76b9719d911017c592", "sha1:aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"
	for _, c := range []struct{ name, key, encoding, data, err string }{
		{"base64", sha("hello"), "base64", "aGVsbG8=", ""},
		{"line breaks", sha("hello"), "base64", "aGVs\nbG8=\n", ""},
		{"xz", sha("hello"), "lzma+base64", asXZ, ""},
		{"lzma", sha("hello"), "lzma+base64", asLZMA, ""},
		{"md5", md5Hello, "base64", "aGVsbG8=", ""},
		{"sha1", sha1Hello, "base64", "aGVsbG8=", ""},
		{"no base64", sha("hello"), "base64", "aGV?", "illegal base64 data"},
		{"cut off", sha("hello"), "base64", "aGVsbG8", "decode base64"},
		{"cut off xz", sha("hello"), "lzma+base64", asXZ[:len(asXZ)-8], "decode lzma+base64"},
		{"no lzma", sha("hello"), "lzma+base64", "aGVsbG8gaGVsbG8gaGVsbG8=", "lzma"},
		{"empty lzma", sha("hello"), "lzma+base64", "", "lzma"},
		{"encoding", sha("hello"), "hex", "00", `unknown encoding "hex": use base64 or lzma+base64`},
		{"other content", sha("world"), "base64", "aGVsbG8=", "checksum mismatch for inline data: expected " + sha("world") + ", got " + sha("hello") + ", 5 bytes; nothing was stored"},
		{"path as key", "sha256:../../x", "base64", "aGVsbG8=", "is no checksum"},
		{"upper case", strings.ToUpper(sha1Hello), "base64", "aGVsbG8=", "is no checksum"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, err := json.Marshal(inlineItem{Encoding: c.encoding, Data: c.data})
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			d := &module.Download{Items: map[string]json.RawMessage{c.key: raw}, Cache: dir, Tmp: filepath.Join(dir, "tmp")}
			if err := os.Mkdir(d.Tmp, 0o755); err != nil {
				t.Fatal(err)
			}
			results, err := inline(t.Context(), nil, d)
			if err != nil || len(results) != 1 {
				t.Fatal(results, err)
			}
			got := cacheLines(t, dir)
			if c.err != "" {
				if results[0].Success || !strings.Contains(results[0].Error, c.err) || len(got) != 0 {
					t.Errorf("%+v, left behind: %v", results[0], got)
				}
				return
			}
			if !results[0].Success || len(got) != 1 || got[c.key] != "hello" {
				t.Errorf("%+v, cache: %v", results[0], got)
			}
		})
	}
}

// FuzzInline decodes what a manifest may hold: it must end, with or without an
// error, and publish nothing under a checksum that it does not have.
func FuzzInline(f *testing.F) {
	f.Add("base64", "aGVsbG8=")
	f.Add("lzma+base64", pack(f, "hello", func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }))
	f.Fuzz(func(t *testing.T, encoding, data string) {
		item := inlineItem{Encoding: encoding, Data: data}
		content, err := item.open()
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, io.LimitReader(content, 1<<20))
		if err == nil && encoding == "base64" && n > int64(len(data)) {
			t.Errorf("%d bytes of %d characters", n, len(data))
		}
	})
}
