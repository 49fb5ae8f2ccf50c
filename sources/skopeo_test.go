package sources

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// pull fetches one item in this process.
func pull(t *testing.T, cache string, fetch func(*puller, context.Context, string) (bool, error), key string, item any) error {
	t.Helper()
	raw, err := json.Marshal(item)
	if err != nil {
		t.Fatal(err)
	}
	d := &module.Download{Items: map[string]json.RawMessage{key: raw}, Cache: cache, Tmp: filepath.Join(cache, ".partial")}
	if err := os.MkdirAll(d.Tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := newPuller(d)
	if err != nil {
		t.Fatal(err)
	}
	p.progress.sizes = map[string]int64{}
	p.stall = 500 * time.Millisecond
	_, err = fetch(p, t.Context(), key)
	if err := p.stores.close(); err != nil {
		t.Error(err)
	}
	return err
}

// edit changes the manifest's item.
func edit(item map[string]any, key string, value any) map[string]any {
	image := item["image"].(map[string]any)
	if image[key] = value; value == nil {
		delete(image, key)
	}
	return item
}

// TestSkopeo is what is in the cache afterwards: the files that skopeo would
// make, as the registry has them.
func TestSkopeo(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	one := r.push("a/image", "one", "two", "one")
	manifest := "/v2/a/image/manifests/"
	files := func(image pushed, layers ...string) map[string]string {
		files := map[string]string{"version": "Directory Transport Version: 1.1\n", "manifest.json": string(r.content[manifest+image.digest])}
		for _, digest := range append(layers, image.id) {
			files[strings.TrimPrefix(digest, "sha256:")] = string(r.content["/v2/a/image/blobs/"+digest])
		}
		return files
	}
	layer := func(content string) string { return sha(string(layerOf(content))) }
	plain := files(one, layer("one"), layer("two"))

	other := r.push("a/image", "for another architecture")
	index := r.pushIndex("a/image", map[string]pushed{runtime.GOARCH: one, "s390x": other})

	signed := r.push("a/image", "signed")
	r.signatures[signed.digest] = "\x99not one that could be checked"
	withSignature := files(signed, layer("signed"))
	withSignature["signature-1"] = "\x99not one that could be checked"

	secure := newRegistry(t, httptest.NewTLSServer)
	secure.push("a/image", "one", "two", "one")

	for _, test := range []struct {
		name  string
		image pushed
		item  map[string]any
		want  map[string]string
	}{
		{"an image", one, r.item("a/image", one), plain},
		{"the digest of an index", one, edit(r.item("a/image", one), "digest", index.digest), plain},
		{"docker as transport", one, edit(r.item("a/image", one), "containers-transport", "docker"), plain},
		{"a certificate that is not known", one, secure.item("a/image", one), plain},
		{"signatures", signed, r.item("a/image", signed), withSignature},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache := t.TempDir()
			if err := pull(t, cache, (*puller).image, test.image.id, test.item); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for name, content := range test.want {
				want[test.image.id+"/image/"+name] = content
			}
			if got := cacheLines(t, cache); !reflect.DeepEqual(got, want) {
				t.Errorf("got %q\nwant %q", got, want)
			}
		})
	}
	if n := r.requests["/v2/a/image/blobs/"+layer("one")]; n != 3 {
		t.Errorf("a layer that an image has twice was asked for %d times by three images", n)
	}
}

// TestSkopeoRefuses is what is said about an image that cannot be had, and that
// nothing of it is left.
func TestSkopeoRefuses(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	good := r.push("image", "content")
	broken := r.push("broken", "other content")
	r.content["/v2/broken/blobs/"+sha(string(layerOf("other content")))] = []byte("not what it was")
	swapped := r.push("swapped", "content of its own")
	r.content["/v2/swapped/manifests/"+swapped.digest] = r.content["/v2/image/manifests/"+good.digest]
	long := r.push("long", "content of the right size")
	longer := "/v2/long/blobs/" + sha(string(layerOf("content of the right size")))
	r.content[longer] = append(r.content[longer], make([]byte, 1<<20)...)
	foreign := r.pushIndex("image", map[string]pushed{"s390x": good})
	index := r.pushIndex("image", map[string]pushed{runtime.GOARCH: good})
	secure := newRegistry(t, httptest.NewTLSServer)
	secured := secure.push("image", "content")
	silent := newRegistry(t, func(http.Handler) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }))
	})
	private := newRegistry(t, func(http.Handler) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}))
	})
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(t.TempDir(), "auth.json"))

	image, indexed := (*puller).image, (*puller).index
	for _, test := range []struct {
		name  string
		fetch func(*puller, context.Context, string) (bool, error)
		key   string
		item  map[string]any
		want  []string
	}{
		{"another id", image, sha("wanted"), r.item("image", good), []string{r.host() + "/image@" + good.digest, "has the id " + good.id, "wants " + sha("wanted"), "nothing was stored"}},
		{"another manifest", image, swapped.id, r.item("swapped", swapped), []string{"checksum mismatch", swapped.digest}},
		{"another layer", image, broken.id, r.item("broken", broken), []string{"checksum mismatch", sha(string(layerOf("other content")))}},
		{"a larger layer", image, long.id, r.item("long", long), []string{"larger than the image says", "nothing was stored"}},
		{"no image", image, good.id, r.item("nothing", good), []string{"nothing@" + good.digest, "there is none"}},
		{"not for this architecture", image, good.id, edit(r.item("image", good), "digest", foreign.digest), []string{"no image found", runtime.GOARCH}},
		{"an index of itself", image, index.digest, edit(r.item("image", good), "digest", index.digest), []string{"has the id " + good.id}},
		{"no TLS", image, good.id, edit(r.item("image", good), "tls-verify", nil), []string{"HTTP response to HTTPS client", `set "tls-verify": false`}},
		{"unknown certificate", image, secured.id, edit(secure.item("image", secured), "tls-verify", true), []string{"certificate", "certs.d"}},
		{"silence", image, good.id, silent.item("image", good), []string{"sent nothing for 500ms"}},
		{"no password", image, good.id, private.item("image", good), []string{"podman login"}},
		{"location of a registry", image, good.id, edit(r.item("image", good), "storage-location", "/s"), []string{"storage-location", "containers-storage"}},
		{"no name", image, good.id, edit(r.item("image", good), "name", "Not/A Name"), []string{"Not/A Name"}},
		{"no digest", image, good.id, edit(r.item("image", good), "digest", "sha256:12"), []string{`digest "sha256:12"`}},
		{"no key", image, "../image", r.item("image", good), []string{"no checksum"}},
		{"no index", indexed, good.digest, r.item("image", pushed{}), []string{"is one image", "org.osbuild.skopeo"}},
		{"another index", indexed, sha("wanted"), r.item("image", pushed{}), []string{"image@" + sha("wanted"), "there is none"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache := t.TempDir()
			err := pull(t, cache, test.fetch, test.key, test.item)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nhas no %q", err, want)
				}
			}
			if got := cacheLines(t, cache); len(got) > 0 {
				t.Errorf("left: %v", got)
			}
		})
	}
}

// TestSkopeoCredentials: a registry that wants a password gets the one that the file has
// for it.
func TestSkopeoCredentials(t *testing.T) {
	r := newRegistry(t, func(h http.Handler) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if user, password, _ := req.BasicAuth(); user != "me" || password != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, req)
		}))
	})
	private := r.push("image", "content")
	file := filepath.Join(t.TempDir(), "auth.json")
	auth := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	if err := os.WriteFile(file, []byte(`{"auths": {"`+r.host()+`/image": {"auth": "`+auth+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("REGISTRY_AUTH_FILE", file)
	if err := pull(t, t.TempDir(), (*puller).image, private.id, r.item("image", private)); err != nil {
		t.Error(err)
	}
}

// TestSkopeoFromStorage takes images from a container storage, which has the
// layers without their compression.
func TestSkopeoFromStorage(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	r.gzip = true
	stored, other := r.push("image", "content"), r.push("image", "not in the storage")
	store := newStorage(t)
	store.pull(t, r, "image", stored)
	store = store.copied(t)
	item := func(image pushed) map[string]any {
		return map[string]any{"image": map[string]any{
			"name": "localhost/image", "digest": image.digest, "containers-transport": "containers-storage",
		}}
	}
	for name, location := range map[string]any{"podman's": nil, "named": store.dir} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			if err := pull(t, cache, (*puller).image, stored.id, edit(item(stored), "storage-location", location)); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(cache, stored.id, "image")
			lines := cacheLines(t, dir)
			var m struct {
				Layers []struct{ MediaType, Digest string }
				Config struct{ Digest string }
			}
			if err := json.Unmarshal([]byte(lines["manifest.json"]), &m); err != nil {
				t.Fatal(err)
			}
			layer := string(layerOf("content"))
			if len(m.Layers) != 1 || m.Layers[0].Digest != sha(layer) || m.Layers[0].MediaType != "application/vnd.oci.image.layer.v1.tar" || m.Config.Digest != stored.id {
				t.Errorf("manifest: %s", lines["manifest.json"])
			}
			if lines[strings.TrimPrefix(sha(layer), "sha256:")] != layer || len(lines) != 4 {
				t.Errorf("got %q", lines)
			}
		})
	}
	none := filepath.Join(t.TempDir(), "none")
	for name, test := range map[string]struct {
		image    pushed
		location any
		want     string
	}{
		"no image":   {other, nil, "podman pull"},
		"no storage": {stored, none, "there is no container storage"},
	} {
		t.Run(name, func(t *testing.T) {
			err := pull(t, t.TempDir(), (*puller).image, test.image.id, edit(item(test.image), "storage-location", test.location))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a storage was made where there was none")
	}
}

// TestPolicy: what the host's policy does not let in is refused.
func TestPolicy(t *testing.T) {
	r := newRegistry(t, httptest.NewServer)
	image := r.push("a/image", "content")
	const accept, reject, signed = `[{"type":"insecureAcceptAnything"}]`, `[{"type":"reject"}]`, `[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]`
	for name, test := range map[string]struct{ policy, want string }{
		"accepted":                {`{"default":` + accept + `}`, ""},
		"rejected":                {`{"default":` + reject + `}`, "refuses it"},
		"to be signed":            {`{"default":` + signed + `}`, "wants it to be signed (signedBy)"},
		"both":                    {`{"default":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}`, "refuses it"},
		"no requirement":          {`{"default":[]}`, "no requirement"},
		"registry rejected":       {`{"default":` + accept + `,"transports":{"docker":{"HOST":` + reject + `}}}`, "refuses it"},
		"name accepted":           {`{"default":` + reject + `,"transports":{"docker":{"HOST":` + reject + `,"HOST/a/image":` + accept + `}}}`, ""},
		"transport accepted":      {`{"default":` + reject + `,"transports":{"docker":{"":` + accept + `}}}`, ""},
		"other transport":         {`{"default":` + accept + `,"transports":{"containers-storage":{"":` + reject + `}}}`, ""},
		"not JSON":                {`{`, "policy"},
		"other registry rejected": {`{"default":` + accept + `,"transports":{"docker":{"example.org":` + reject + `}}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policy.json")
			if err := os.WriteFile(path, []byte(strings.ReplaceAll(test.policy, "HOST", r.host())), 0o644); err != nil {
				t.Fatal(err)
			}
			t.Setenv("CONTAINERS_POLICY_JSON", path)
			err := pull(t, t.TempDir(), (*puller).image, image.id, r.item("a/image", image))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestSweepScratch removes what killed processes have left.
func TestSweepScratch(t *testing.T) {
	tmp := t.TempDir()
	held, err := newScratch(tmp)
	if err != nil {
		t.Fatal(err)
	}
	young := filepath.Join(tmp, scratchPrefix+"young")
	stale := filepath.Join(tmp, scratchPrefix+"stale")
	for _, dir := range []string{young, filepath.Join(stale, "image"), filepath.Join(tmp, "other")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	past := unix.NsecToTimespec(time.Now().Add(-time.Hour).UnixNano())
	for _, dir := range []string{held.dir, stale, filepath.Join(tmp, "other")} {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{past, past}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := sweepScratch(tmp); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{held.dir: true, young: true, stale: false, filepath.Join(tmp, "other"): true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, should be there: %v", dir, err, want)
		}
	}
	if err := held.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(held.dir); err == nil {
		t.Error("the scratch directory is not removed")
	}
}
