package sources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ossify/ossify/module"
)

// parallel is how many items are downloaded at a time.
const parallel = 8

// curlItem is where to get one file. In the manifest it may be a URL only.
type curlItem struct {
	URL string `json:"url"`
	// Insecure does without a check of the server's certificate.
	Insecure bool `json:"insecure"`
	// Secrets names who provides them, or is nil.
	Secrets *struct {
		Name string `json:"name"`
	} `json:"secrets"`
	// Size of the file in bytes, 0 if unknown; no more than that is read.
	Size int64 `json:"size"`
	// Mirrors are other URLs of the same file.
	Mirrors []string `json:"mirrors"`
}

// UnmarshalJSON takes a URL or an object.
func (item *curlItem) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &item.URL); err == nil {
		return nil
	}
	type object curlItem
	return json.Unmarshal(data, (*object)(item))
}

// urls parses the URL and the mirrors of the item.
func (item *curlItem) urls() ([]*url.URL, error) {
	var urls []*url.URL
	for _, text := range append([]string{item.URL}, item.Mirrors...) {
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no URL: %w", text, errors.Unwrap(err))
		}
		switch {
		case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") && u.Path != "":
		case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		default:
			return nil, fmt.Errorf("%s: only http://HOST/PATH, https://HOST/PATH and file:///PATH can be downloaded", u.Redacted())
		}
		// Object stores take a plain plus sign for a space.
		u.RawPath = strings.ReplaceAll(u.EscapedPath(), "+", "%2B")
		urls = append(urls, u)
	}
	return urls, nil
}

// curl downloads files.
func curl(ctx context.Context, s *module.Service, d *module.Download) ([]module.ItemResult, error) {
	if err := sweepPartials(d.Tmp, time.Now().Add(-partialAge)); err != nil {
		return nil, err
	}
	dl := &downloader{Download: d, stall: 30 * time.Second, backoff: 500 * time.Millisecond}
	var err error
	if dl.clients.given, err = givenFiles(d.Secrets); err != nil {
		return nil, err
	}
	defer dl.closeIdle()
	return dl.all(ctx, s.Signal)
}

// downloader downloads the items of one call.
type downloader struct {
	*module.Download
	// stall is how long a server may send nothing.
	stall time.Duration
	// backoff is the pause before the second round of tries; it doubles.
	backoff time.Duration

	clients  clients
	hosts    hosts
	progress progress
}

// all downloads what is not in the cache.
func (dl *downloader) all(ctx context.Context, signal func(any) error) ([]module.ItemResult, error) {
	return dl.progress.each(sortedKeys(dl.Items), parallel, signal, func(key string) (cached bool, err error) {
		return dl.item(ctx, key)
	})
}

// item downloads one item unless it is in the cache.
func (dl *downloader) item(ctx context.Context, key string) (cached bool, err error) {
	c, err := parseChecksum(key)
	if err != nil {
		return false, err
	}
	var item curlItem
	if err := json.Unmarshal(dl.Items[key], &item); err != nil {
		return false, fmt.Errorf("%s: decode item: %w", key, err)
	}
	if dl.fromCache(c, item.Size) {
		return true, nil
	}
	urls, err := item.urls()
	if err != nil {
		return false, fmt.Errorf("%s: %w", key, err)
	}
	if item.Size > 0 {
		dl.progress.size(key, item.Size)
	}
	client, err := dl.clients.get(&item)
	if err != nil {
		return false, fmt.Errorf("%s: %w", urls[0].Redacted(), err)
	}
	p, err := openPartial(dl.Tmp, c)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	// While we waited for the lock somebody else may have got it.
	if dl.fromCache(c, item.Size) {
		return true, p.remove()
	}
	t := &transfer{downloader: dl, item: &item, client: client, partial: p}
	return false, t.run(ctx, urls)
}

// fromCache counts content that is in the cache already. A file of another size
// than the stated one, 0 if none is, was broken since and is fetched again.
func (dl *downloader) fromCache(c checksum, size int64) bool {
	n, ok := cachedSize(dl.Download, c)
	if !ok || size > 0 && n != size {
		return false
	}
	dl.progress.size(c.text, n)
	dl.progress.bytes.Add(n)
	return true
}

// closeIdle closes connections that are kept for the next request.
func (dl *downloader) closeIdle() { dl.clients.close() }
