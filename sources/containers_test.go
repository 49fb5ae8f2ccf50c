package sources

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/ossify/ossify/module"
)

// registry serves one repository of the distribution API.
type registry struct {
	blobs map[string][]byte
	kinds map[string]string
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

func (r *registry) add(kind string, data []byte) string {
	id := digestOf(data)
	r.blobs[id], r.kinds[id] = data, kind
	return id
}

func (r *registry) addJSON(t *testing.T, kind string, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return r.add(kind, data)
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	id := req.URL.Path[strings.LastIndexByte(req.URL.Path, '/')+1:]
	data, ok := r.blobs[id]
	switch {
	case req.URL.Path == "/v2/":
	case !ok:
		http.Error(w, `{"errors": [{"code": "MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", r.kinds[id])
		w.Header().Set("Docker-Content-Digest", id)
		w.Write(data)
	}
}

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar"
)

type descriptor struct {
	MediaType string            `json:"mediaType"`
	Digest    string            `json:"digest"`
	Size      int               `json:"size"`
	Platform  map[string]string `json:"platform,omitempty"`
}

func (r *registry) describe(id string) descriptor {
	return descriptor{MediaType: r.kinds[id], Digest: id, Size: len(r.blobs[id])}
}

// serveImage starts a registry with one image in a list. config is the image's id.
func serveImage(t *testing.T) (r *registry, name, config, manifest, index string) {
	r = &registry{blobs: map[string][]byte{}, kinds: map[string]string{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	layer := r.add(ociLayer, make([]byte, 1024)) // an empty archive
	config = r.addJSON(t, ociConfig, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{layer}},
	})
	manifest = r.addJSON(t, ociManifest, map[string]any{
		"schemaVersion": 2, "mediaType": ociManifest, "config": r.describe(config), "layers": []descriptor{r.describe(layer)},
	})
	entry := r.describe(manifest)
	entry.Platform = map[string]string{"architecture": runtime.GOARCH, "os": "linux"}
	other := entry
	other.Platform, other.Digest = map[string]string{"architecture": "s390x", "os": "linux"}, digestOf([]byte("other"))
	index = r.addJSON(t, ociIndex, map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []descriptor{other, entry}})
	return r, strings.TrimPrefix(server.URL, "http://") + "/one/image", config, manifest, index
}

func fetchImages(t *testing.T, cache string, source func(context.Context, *module.Service, *module.Download) ([]module.ItemResult, error), id, image string) module.ItemResult {
	t.Helper()
	d := &module.Download{Items: map[string]json.RawMessage{id: json.RawMessage(`{"image": ` + image + `}`)}, Cache: cache, Tmp: t.TempDir()}
	results, err := source(context.Background(), nil, d)
	if err != nil || len(results) != 1 {
		t.Fatalf("%v, %v", results, err)
	}
	left, err := os.ReadDir(d.Tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	return results[0]
}

func TestSkopeo(t *testing.T) {
	r, name, config, manifest, index := serveImage(t)
	image := func(digest string) string {
		return fmt.Sprintf(`{"name": %q, "digest": %q, "tls-verify": false}`, name, digest)
	}
	for _, digest := range []string{manifest, index} {
		cache := t.TempDir()
		for i, cached := range []bool{false, true} {
			got := fetchImages(t, cache, skopeo, config, image(digest))
			if !got.Success || got.Metadata["cached"] != cached {
				t.Fatalf("%s, time %d: %+v", digest, i, got)
			}
		}
		// The form of skopeo's dir:, as osbuild's source has it.
		dir := filepath.Join(cache, config, "image")
		data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
		if err != nil || digestOf(data) != manifest {
			t.Errorf("manifest: %s, %v", data, err)
		}
		data, err = os.ReadFile(filepath.Join(dir, strings.TrimPrefix(config, "sha256:")))
		if err != nil || string(data) != string(r.blobs[config]) {
			t.Errorf("configuration: %s, %v", data, err)
		}
	}
}

func TestSkopeoRefuses(t *testing.T) {
	r, name, config, manifest, _ := serveImage(t)
	missing := digestOf([]byte("missing"))
	for what, c := range map[string]struct{ id, image, want string }{
		"another id":      {missing, fmt.Sprintf(`{"name": %q, "digest": %q, "tls-verify": false}`, name, manifest), "has the id " + config + "; nothing was stored"},
		"missing":         {config, fmt.Sprintf(`{"name": %q, "digest": %q, "tls-verify": false}`, name, missing), name},
		"not a digest":    {config, fmt.Sprintf(`{"name": %q, "digest": "sha256:12", "tls-verify": false}`, name), `digest "sha256:12"`},
		"no such host":    {config, fmt.Sprintf(`{"name": "127.0.0.1:1/x", "digest": %q, "tls-verify": false}`, manifest), "connection refused"},
		"other transport": {config, fmt.Sprintf(`{"name": %q, "digest": %q, "containers-transport": "oci"}`, name, manifest), "use docker or containers-storage"},
	} {
		cache := t.TempDir()
		got := fetchImages(t, cache, skopeo, c.id, c.image)
		if got.Success || !strings.Contains(got.Error, c.want) {
			t.Errorf("%s: %+v, want %q", what, got, c.want)
		}
		if left, err := os.ReadDir(cache); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is in the cache, %v", what, left, err)
		}
	}
	// A registry that sends something else than it was asked for.
	for id := range r.blobs {
		if r.kinds[id] == ociLayer {
			r.blobs[id] = []byte("wrong")
		}
	}
	got := fetchImages(t, t.TempDir(), skopeo, config, fmt.Sprintf(`{"name": %q, "digest": %q, "tls-verify": false}`, name, manifest))
	if got.Success {
		t.Errorf("a wrong layer was taken: %+v", got)
	}
}

func TestSkopeoIndex(t *testing.T) {
	_, name, _, manifest, index := serveImage(t)
	image := fmt.Sprintf(`{"name": %q, "tls-verify": false}`, name)
	cache := t.TempDir()
	for _, cached := range []bool{false, true} {
		got := fetchImages(t, cache, skopeoIndex, index, image)
		if !got.Success || got.Metadata["cached"] != cached {
			t.Fatalf("%+v", got)
		}
	}
	data, err := os.ReadFile(filepath.Join(cache, index))
	if err != nil || digestOf(data) != index {
		t.Errorf("%s, %v", data, err)
	}
	got := fetchImages(t, cache, skopeoIndex, manifest, image)
	if got.Success || !strings.Contains(got.Error, "is no list of images, but "+ociManifest) {
		t.Errorf("%+v", got)
	}
}
