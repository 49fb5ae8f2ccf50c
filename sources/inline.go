package sources

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// inlineItem is content that stands in the manifest.
type inlineItem struct {
	// Encoding is "base64", or "lzma+base64" for compressed content.
	Encoding string `json:"encoding"`
	Data     string `json:"data"`
}

// maxInline bounds what compressed content becomes, in bytes: a few of a manifest
// could fill the disk, and what they are decoded with is as large.
const maxInline = 256 << 20

// inline puts content of the manifest itself into the cache.
func inline(_ context.Context, _ *module.Service, d *module.Download) ([]module.ItemResult, error) {
	var results []module.ItemResult
	for _, key := range sortedKeys(d.Items) {
		cached, err := inlineOne(d, key)
		if err != nil {
			results = append(results, failed(key, err))
			continue
		}
		results = append(results, succeeded(key, cached))
	}
	return results, nil
}

func sortedKeys(items map[string]json.RawMessage) []string {
	keys := make([]string, 0, len(items))
	for key := range items {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func inlineOne(d *module.Download, key string) (cached bool, err error) {
	c, err := parseChecksum(key)
	if err != nil {
		return false, err
	}
	if _, ok := cachedSize(d, c); ok {
		return true, nil
	}
	var item inlineItem
	if err := json.Unmarshal(d.Items[key], &item); err != nil {
		return false, fmt.Errorf("%s: decode item: %w", key, err)
	}
	content, err := item.open()
	if err != nil {
		return false, fmt.Errorf("%s: %w", key, err)
	}
	f, err := os.CreateTemp(d.Tmp, "inline-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close(), removeIfThere(f.Name())) }()
	if err := f.Chmod(0o644); err != nil {
		return false, err
	}
	h := c.new()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(content, maxInline+1))
	if err != nil {
		return false, fmt.Errorf("%s: decode %s: %w", key, item.Encoding, err)
	}
	if n > maxInline {
		return false, fmt.Errorf("%s: the decoded content has more than %d bytes: give the file a URL and use org.osbuild.curl", key, maxInline)
	}
	if got := c.sum(h); got != key {
		return false, fmt.Errorf("checksum mismatch for inline data: expected %s, got %s, %d bytes; nothing was stored", key, got, n)
	}
	return false, publish(d, c, f)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// lzmaXZ is how an .xz file starts; older .lzma files have no such mark.
const lzmaXZ = "\xfd7zXZ\x00"

// open returns a reader of the decoded content.
func (item *inlineItem) open() (io.Reader, error) {
	content := base64.NewDecoder(base64.StdEncoding, strings.NewReader(item.Data))
	switch item.Encoding {
	case "base64":
		return content, nil
	case "lzma+base64":
		buffered := bufio.NewReader(content)
		start, err := buffered.Peek(len(lzmaXZ))
		if err != nil {
			return nil, fmt.Errorf("decode lzma+base64: %w", err)
		}
		if string(start) == lzmaXZ {
			return xz.NewReader(buffered)
		}
		return lzma.NewReader(buffered)
	}
	return nil, fmt.Errorf("unknown encoding %q: use base64 or lzma+base64", item.Encoding)
}
