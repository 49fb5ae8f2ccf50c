package unxz

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

func plain(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/plain.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func unpack(data []byte, width int) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(data), int64(len(data)), width)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// pack compresses with the library, in blocks of that size.
func pack(t testing.TB, data []byte, block int64) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.WriterConfig{BlockSize: block, DictCap: 1 << 16}.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func sample(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSamples reads what the xz program wrote with different settings.
func TestSamples(t *testing.T) {
	want := plain(t)
	for _, name := range []string{"blocks.xz", "sha256.xz", "props.xz", "none.xz"} {
		for _, width := range []int{0, 1, 3, 100} {
			got, err := unpack(sample(t, name), width)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d at a time: %d bytes, error %v; want %d bytes", name, width, len(got), err, len(want))
			}
		}
	}
	if got, err := unpack(sample(t, "empty.xz"), 2); err != nil || len(got) > 0 {
		t.Errorf("empty.xz: %d bytes, error %v", len(got), err)
	}
}

func TestRefuses(t *testing.T) {
	good := sample(t, "blocks.xz")
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":     {nil, "too short"},
		"no xz":       {make([]byte, 64), "not an xz file"},
		"cut off":     {good[:len(good)-4], "corrupt"},
		"odd length":  {good[:len(good)-1], "cut off"},
		"two streams": {append(bytes.Clone(good), good...), "more than one stream"},
		"filter":      {sample(t, "bcj.xz"), "other filters"},
	} {
		if _, err := unpack(test.data, 2); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

// TestDamage turns every bit of a file, one after the other, and wants each
// found: all of them are under some check.
func TestDamage(t *testing.T) {
	data := pack(t, []byte(strings.Repeat("damage it! ", 20)), 100)
	if _, err := unpack(data, 1); err != nil {
		t.Fatal(err)
	}
	for i := range len(data) * 8 {
		data[i/8] ^= 1 << (i % 8)
		if _, err := unpack(data, 1); err == nil {
			t.Errorf("bit %d of byte %d is not found", i%8, i/8)
		}
		data[i/8] ^= 1 << (i % 8)
	}
}

// FuzzReader compares with the library that streams: what it accepts with
// the same kinds of filter and check has the same bytes here.
func FuzzReader(f *testing.F) {
	f.Add(sample(f, "empty.xz"))
	f.Add(pack(f, []byte("abcabcabc, abcabc"), 8))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := unpack(data, 2)
		if err != nil {
			return
		}
		r, err := xz.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("accepted what the library refuses: %v", err)
		}
		want, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, the library has %d and error %v", len(got), len(want), err)
		}
	})
}

// FuzzRoundTrip packs any bytes with the library and wants them back.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("some bytes, some bytes, some bytes"), int64(10))
	f.Add(bytes.Repeat([]byte{0}, 5000), int64(4096))
	f.Fuzz(func(t *testing.T, data []byte, block int64) {
		block = max(block&0xffff, int64(len(data)/8), 1)
		got, err := unpack(pack(t, data, block), 2)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("got %d bytes, error %v; want %d", len(got), err, len(data))
		}
	})
}
