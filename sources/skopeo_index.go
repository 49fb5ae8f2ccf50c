package sources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

// skopeoIndex fetches indexes of images: the list of an image's variants for
// several architectures. Their digests name them.
func skopeoIndex(ctx context.Context, s *module.Service, d *module.Download) (_ []module.ItemResult, err error) {
	p, err := newPuller(d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stores.close()) }()
	return p.progress.each(sortedKeys(d.Items), parallelImages, s.Signal, func(key string) (bool, error) {
		return p.index(ctx, key)
	})
}

// index fetches one index unless it is in the cache.
func (p *puller) index(ctx context.Context, key string) (cached bool, err error) {
	c, err := parseChecksum(key)
	if err != nil {
		return false, err
	}
	item, err := p.decode(key)
	if err != nil {
		return false, err
	}
	if n, ok := cachedSize(p.Download, c); ok {
		p.progress.size(key, n)
		p.progress.bytes.Add(n)
		return true, nil
	}
	item.Image.Digest = key
	blob, err := p.readIndex(ctx, item)
	if err != nil {
		return false, fmt.Errorf("%s: %w", item, err)
	}
	p.progress.size(key, int64(len(blob)))
	p.progress.bytes.Add(int64(len(blob)))
	tmp, err := newScratch(p.Tmp)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, tmp.remove()) }()
	path := filepath.Join(tmp.dir, "index")
	if err := os.WriteFile(path, blob, 0o644); err != nil {
		return false, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	return false, errors.Join(publish(p.Download, c, f), f.Close())
}

// readIndex returns the index as the registry has it.
func (p *puller) readIndex(ctx context.Context, item *imageItem) (blob []byte, err error) {
	ctx, _, stop := p.watch(ctx)
	defer stop()
	defer func() {
		if err != nil {
			err = cause(ctx, err)
		}
	}()
	src, _, err := p.open(ctx, item)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if blob, _, err = src.GetManifest(ctx, nil); err != nil {
		return nil, err
	}
	// The media type may be left out of an OCI index.
	var index struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(blob, &index); err != nil {
		return nil, fmt.Errorf("decode index: %w", err)
	}
	switch index.MediaType {
	case "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json":
		return blob, nil
	case "":
		if index.Manifests != nil {
			return blob, nil
		}
	}
	return nil, errors.New("is one image and no index of several: it belongs to the source org.osbuild.skopeo")
}
