package sources

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// checksum is the key of an item: "ALGORITHM:HEX". It is a safe file name.
type checksum struct {
	text string
	new  func() hash.Hash
}

func parseChecksum(text string) (checksum, error) {
	algorithm, digits, _ := strings.Cut(text, ":")
	c := checksum{text: text}
	switch algorithm {
	case "md5":
		c.new = md5.New
	case "sha1":
		c.new = sha1.New
	case "sha256":
		c.new = sha256.New
	case "sha384":
		c.new = sha512.New384
	case "sha512":
		c.new = sha512.New
	default:
		return c, fmt.Errorf("%q is no checksum that is known: use md5, sha1, sha256, sha384 or sha512, a colon and hexadecimal digits", text)
	}
	raw, err := hex.DecodeString(digits)
	if want := c.new().Size(); err != nil || len(raw) != want || digits != strings.ToLower(digits) {
		return c, fmt.Errorf("%q is no checksum: %s has %d lower-case hexadecimal digits", text, algorithm, 2*want)
	}
	return c, nil
}

// sum writes what h has computed as the key of an item.
func (c checksum) sum(h hash.Hash) string {
	algorithm, _, _ := strings.Cut(c.text, ":")
	return algorithm + ":" + hex.EncodeToString(h.Sum(nil))
}

// cachedSize returns the size in bytes of content that is published already.
func cachedSize(d *module.Download, c checksum) (int64, bool) {
	st, err := os.Lstat(filepath.Join(d.Cache, c.text))
	if err != nil || !st.Mode().IsRegular() {
		return 0, false
	}
	return st.Size(), true
}

// publish makes verified content part of the cache. The content is on disk
// before its name is, so that a name never stands for half a file.
func publish(d *module.Download, c checksum, f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("write %s to disk: %w", c.text, err)
		}
		return os.Rename(f.Name(), filepath.Join(d.Cache, c.text))
	}
}

// succeeded is the result of an item that is in the cache now; cached says that
// it was before.
func succeeded(c string, cached bool) module.ItemResult {
	return module.ItemResult{Success: true, Metadata: map[string]any{"checksum": c, "cached": cached}}
}

func failed(c string, err error) module.ItemResult {
	return module.ItemResult{Metadata: map[string]any{"checksum": c}, Error: err.Error()}
}
