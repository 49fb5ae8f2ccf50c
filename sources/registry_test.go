package sources

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
)

const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
)

// registry serves images from memory (the distribution specification's /v2/).
type registry struct {
	*httptest.Server
	mu sync.Mutex
	// content is by "/v2/NAME/blobs/DIGEST" and "/v2/NAME/manifests/DIGEST".
	content map[string][]byte
	// signatures by manifest, which only some registries keep.
	signatures map[string]string
	requests   map[string]int
	// gzip compresses the layers of images that are pushed.
	gzip bool
}

func newRegistry(t testing.TB, start func(http.Handler) *httptest.Server) *registry {
	t.Helper()
	r := &registry{content: map[string][]byte{}, signatures: map[string]string{}, requests: map[string]int{}}
	r.Server = start(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

func (r *registry) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests[req.URL.Path]++
	w.Header().Set("X-Registry-Supports-Signatures", "1")
	if req.URL.Path == "/v2/" {
		return
	}
	if name, ok := strings.CutPrefix(req.URL.Path, "/extensions/v2/"); ok {
		type signature struct {
			Version int    `json:"schemaVersion"`
			Type    string `json:"type"`
			Name    string `json:"name"`
			Content string `json:"content"`
		}
		list := []signature{}
		_, digest, _ := strings.Cut(name, "/signatures/")
		if text, ok := r.signatures[digest]; ok {
			list = append(list, signature{2, "atomic", digest + "@x", base64.StdEncoding.EncodeToString([]byte(text))})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"signatures": list})
		return
	}
	data, ok := r.content[req.URL.Path]
	if !ok {
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"there is none"}]}`, http.StatusNotFound)
		return
	}
	kind := "application/octet-stream"
	if strings.Contains(req.URL.Path, "/manifests/") {
		var m struct {
			MediaType string `json:"mediaType"`
		}
		_ = json.Unmarshal(data, &m)
		kind = m.MediaType
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(data)
}

// host is the registry in the name of an image.
func (r *registry) host() string {
	_, host, _ := strings.Cut(r.URL, "://")
	return host
}

func (r *registry) put(name, kind string, data []byte) map[string]any {
	digest := sha(string(data))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.content["/v2/"+name+"/"+kind+"/"+digest] = data
	return map[string]any{"digest": digest, "size": len(data)}
}

func (r *registry) putJSON(name, kind string, v any) map[string]any {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return r.put(name, kind, data)
}

// pushed is an image, or an index, that the registry has.
type pushed struct {
	// id is the digest of the configuration, "" of an index.
	id, digest string
	size       int
}

// layerOf is an archive of one file.
func layerOf(content string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content))}); err != nil {
		panic(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func gzipped(data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// push makes an image with a layer for each content.
func (r *registry) push(name string, contents ...string) pushed {
	layers, ids := []any{}, []string{}
	for _, content := range contents {
		data, kind := layerOf(content), "application/vnd.oci.image.layer.v1.tar"
		ids = append(ids, sha(string(data)))
		if r.gzip {
			data, kind = gzipped(data), kind+"+gzip"
		}
		layer := r.put(name, "blobs", data)
		layer["mediaType"] = kind
		layers = append(layers, layer)
	}
	config := r.putJSON(name, "blobs", map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": ids},
		"config": map[string]any{"Labels": map[string]any{"contents": fmt.Sprintf("%q", contents)}},
	})
	config["mediaType"] = "application/vnd.oci.image.config.v1+json"
	m := r.putJSON(name, "manifests", map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": config, "layers": layers,
	})
	return pushed{id: config["digest"].(string), digest: m["digest"].(string), size: m["size"].(int)}
}

// pushIndex makes an index of images by architecture.
func (r *registry) pushIndex(name string, images map[string]pushed) pushed {
	list := []any{}
	for arch, image := range images {
		list = append(list, map[string]any{
			"mediaType": typeManifest, "digest": image.digest, "size": image.size,
			"platform": map[string]any{"architecture": arch, "os": "linux"},
		})
	}
	m := r.putJSON(name, "manifests", map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": list})
	return pushed{digest: m["digest"].(string), size: m["size"].(int)}
}

// item is an item of the manifest for an image of the registry, over http.
func (r *registry) item(name string, image pushed) map[string]any {
	desc := map[string]any{"name": r.host() + "/" + name, "tls-verify": false}
	if image.id != "" {
		desc["digest"] = image.digest
	}
	return map[string]any{"image": desc}
}
