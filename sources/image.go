package sources

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/ossify/ossify/module"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/manifest"
	imagestorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
)

// parallelImages is how many images are fetched at a time.
const parallelImages = 3

// imageStall is how long a registry may send nothing. It is longer than that of
// curl, as the library waits for up to a minute when a registry asks it to.
const imageStall = 2 * time.Minute

// imageItem is where to get an image, or an index of images.
type imageItem struct {
	Image struct {
		Name string `json:"name"`
		// Digest of an image's manifest; an index is called by its own.
		Digest string `json:"digest"`
		// TLSVerify is true if it is nil.
		TLSVerify *bool `json:"tls-verify"`
		// Transport is "docker", which stands for a registry and is the
		// default, or "containers-storage".
		Transport string `json:"containers-transport"`
		// Location is the directory of the container storage; the default
		// is podman's.
		Location string `json:"storage-location"`
	} `json:"image"`
}

// String is the item as people know it.
func (item *imageItem) String() string { return item.Image.Name + "@" + item.Image.Digest }

// puller fetches images for one call.
type puller struct {
	*module.Download
	stall    time.Duration
	progress progress
	stores   stores
}

// newPuller makes a puller; the caller closes its stores.
func newPuller(d *module.Download) (*puller, error) {
	if err := sweepScratch(d.Tmp); err != nil {
		return nil, err
	}
	return &puller{Download: d, stall: imageStall, stores: stores{tmp: d.Tmp}}, nil
}

// decode reads the item of that key, which is a checksum.
func (p *puller) decode(key string) (*imageItem, error) {
	if _, err := parseChecksum(key); err != nil {
		return nil, err
	}
	var item imageItem
	if err := json.Unmarshal(p.Items[key], &item); err != nil {
		return nil, fmt.Errorf("%s: decode item: %w", key, err)
	}
	return &item, nil
}

// open opens the image or index and reads its manifest, which has the digest that
// the item names. The caller closes the source.
func (p *puller) open(ctx context.Context, item *imageItem) (_ types.ImageSource, _ *types.SystemContext, err error) {
	want, err := digest.Parse(item.Image.Digest)
	if err != nil {
		return nil, nil, fmt.Errorf("digest %q: %w", item.Image.Digest, err)
	}
	ref, err := p.reference(item)
	if err != nil {
		return nil, nil, err
	}
	if err := checkPolicy(ref); err != nil {
		return nil, nil, err
	}
	sys := &types.SystemContext{
		BigFilesTemporaryDir: p.Tmp, DockerRegistryUserAgent: "ossify", AuthFilePath: os.Getenv("REGISTRY_AUTH_FILE"),
	}
	if verify := item.Image.TLSVerify; verify != nil && !*verify {
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	src, err := ref.NewImageSource(ctx, sys)
	if err != nil {
		return nil, nil, imageAdvice(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, src.Close())
		}
	}()
	blob, _, err := src.GetManifest(ctx, nil)
	if err != nil {
		return nil, nil, imageAdvice(err)
	}
	if same, err := manifest.MatchesDigest(blob, want); err != nil || !same {
		return nil, nil, errors.Join(fmt.Errorf("checksum mismatch: the manifest that came has another digest than %s; nothing was stored", want), err)
	}
	return src, sys, nil
}

// reference is the item in the library's terms.
func (p *puller) reference(item *imageItem) (types.ImageReference, error) {
	switch item.Image.Transport {
	case "", "docker":
		if item.Image.Location != "" {
			return nil, errors.New(`"storage-location" is for "containers-transport": "containers-storage" only`)
		}
		return docker.ParseReference("//" + item.String())
	case "containers-storage":
		store, err := p.stores.get(item.Image.Location)
		if err != nil {
			return nil, err
		}
		return imagestorage.Transport.ParseStoreReference(store, item.String())
	}
	return nil, fmt.Errorf("unknown containers-transport %q: use docker or containers-storage", item.Image.Transport)
}

// watch returns a context that ends when got is not called for too long. stop
// ends the watching.
func (p *puller) watch(ctx context.Context) (_ context.Context, got, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(p.stall, func() {
		cancel(fmt.Errorf("the registry sent nothing for %v", p.stall))
	})
	return ctx, func() { timer.Reset(p.stall) }, func() {
		timer.Stop()
		cancel(nil)
	}
}

// imageAdvice says what to do about common errors.
func imageAdvice(err error) error {
	var credentials docker.ErrUnauthorizedForCredentials
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &authority):
		return fmt.Errorf(`%w; put the authority's certificate below /etc/containers/certs.d, or set "tls-verify": false`, err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf(`%w; if the registry has no TLS, set "tls-verify": false`, err)
	case errors.As(err, &credentials), strings.Contains(err.Error(), "authentication required"):
		return fmt.Errorf("%w; log in with: podman login REGISTRY", err)
	case errors.Is(err, storage.ErrNotAnImage), errors.Is(err, storage.ErrImageUnknown):
		return fmt.Errorf("%w; get it into the container storage with: podman pull", err)
	}
	return err
}
