package sources

import (
	"encoding/base64"
	"io/fs"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/test/schema"
)

// contract is how to try a source.
type contract struct {
	// item makes an item of that content.
	item func(content string) (key string, desc any)
	// folder of the cache that holds what was fetched, by key; "" if the
	// content stays where it is.
	folder string
}

// downloading are the sources that download: all but that of settings for dnf.
func downloading() []module.Module {
	return slices.DeleteFunc(slices.Clone(All), func(m module.Module) bool { return m.Name == "org.osbuild.dnf" })
}

// TestSettings: the source of settings has nothing to download and keeps nothing.
func TestSettings(t *testing.T) {
	cache := t.TempDir()
	s := start(t, "org.osbuild.dnf")
	reply, _, err := download(s, cache, map[string]any{sha("a"): map[string]string{"baseurl": "http://localhost/"}})
	if err != nil || !reply.Success || len(reply.Results) != 1 || reply.Results[0].Metadata["checksum"] != sha("a") {
		t.Errorf("download: %+v, %v", reply, err)
	}
	if got := cached(t, cache, "org.osbuild.dnf"); len(got) > 0 {
		t.Errorf("cache: %v", got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// contracts has one for each source that downloads.
func contracts(t *testing.T) map[string]contract {
	dir := t.TempDir()
	r := newRegistry(t, httptest.NewServer)
	store := newStorage(t)
	return map[string]contract{
		"org.osbuild.containers-storage": {item: func(content string) (string, any) {
			image := r.push("stored", content)
			store.pull(t, r, "stored", image)
			return image.id, map[string]any{}
		}},
		"org.osbuild.curl": {folder: "org.osbuild.files", item: func(content string) (string, any) {
			path := filepath.Join(dir, sha(content))
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			return sha(content), "file://" + path
		}},
		"org.osbuild.inline": {folder: "org.osbuild.files", item: func(content string) (string, any) {
			return sha(content), map[string]string{"encoding": "base64", "data": base64.StdEncoding.EncodeToString([]byte(content))}
		}},
		"org.osbuild.skopeo": {folder: "org.osbuild.containers", item: func(content string) (string, any) {
			image := r.push("image", content)
			return image.id, r.item("image", image)
		}},
		"org.osbuild.skopeo-index": {folder: "org.osbuild.files", item: func(content string) (string, any) {
			index := r.pushIndex("image", map[string]pushed{"amd64": r.push("image", content)})
			return index.digest, r.item("image", index)
		}},
	}
}

// TestContract is what every source does, as a process that speaks the ABI.
func TestContract(t *testing.T) {
	all := contracts(t)
	for _, source := range downloading() {
		t.Run(source.Name, func(t *testing.T) {
			c := all[source.Name]
			if c.item == nil {
				t.Fatal("no item to test it with")
			}
			cache := t.TempDir()
			s := start(t, source.Name)
			one, oneDesc := c.item("one")
			empty, emptyDesc := c.item("")
			_, other := c.item("other")
			call := map[string]any{one: oneDesc, empty: emptyDesc, sha("wanted"): other, "sha256:ab": other}
			reply, _, err := download(s, cache, call)
			if err != nil {
				t.Fatal(err)
			}
			if reply.Success || len(reply.Results) != 4 {
				t.Errorf("two broken items: %+v", reply)
			}
			good := 0
			for _, r := range reply.Results {
				if r.Success {
					good++
				} else if key := r.Metadata["checksum"].(string); !strings.Contains(r.Error, key) {
					t.Errorf("error %q does not speak of %s", r.Error, key)
				}
			}
			want := []string{one, empty}
			result := module.ItemResult{Success: true, Metadata: map[string]any{"checksum": one, "cached": true}}
			if c.folder == "" {
				want = nil
				delete(result.Metadata, "cached")
			}
			slices.Sort(want)
			if got := cached(t, cache, c.folder); good != 2 || !slices.Equal(got, want) {
				t.Errorf("%d items succeeded, cache: %v, want %v", good, got, want)
			}
			// What is there is not fetched again, on the same connection.
			reply, _, err = download(s, cache, map[string]any{one: other})
			wantReply := module.SourceResult{
				Name: "source " + source.Name, SourceType: source.Name, Success: true,
				Output:  "source " + source.Name + " finished successfully",
				Results: []module.ItemResult{result},
			}
			if err != nil || !reflect.DeepEqual(reply, wantReply) {
				t.Errorf("cached: %+v, %v", reply, err)
			}
			copied := t.TempDir()
			if err := s.Call("copy", map[string]any{"items": map[string]any{one: nil, empty: nil}, "cache": cache, "dst_cache": copied}, &reply, nil); err != nil || !reply.Success {
				t.Errorf("copy: %+v, %v", reply, err)
			}
			if got := cached(t, copied, c.folder); !slices.Equal(got, want) {
				t.Errorf("copied: %v, want %v", got, want)
			}
			if err := s.Call("upload", nil, nil, nil); err == nil || !strings.Contains(err.Error(), `unknown method "upload"`) {
				t.Errorf("unknown method: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// cached lists the keys of what is in a folder of the cache, of which nothing
// else may hold files, and sees that everybody may read it.
func cached(t *testing.T, cache, folder string) []string {
	t.Helper()
	keys := map[string]bool{}
	err := filepath.WalkDir(cache, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(cache, path)
		if err != nil {
			return err
		}
		parts := strings.Split(rel, "/")
		if parts[0] != folder || parts[1] == ".partial" {
			t.Errorf("%s is left in the cache", rel)
		}
		keys[parts[1]] = true
		st, err := e.Info()
		if err == nil && st.Mode().Perm() != 0o644 {
			t.Errorf("%s has the mode %v", rel, st.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(keys))
}

// TestTwoProcesses lets two builds want the same content at the same time.
func TestTwoProcesses(t *testing.T) {
	all := contracts(t)
	for _, source := range downloading() {
		t.Run(source.Name, func(t *testing.T) {
			c := all[source.Name]
			cache, call := t.TempDir(), map[string]any{}
			for _, content := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
				key, desc := c.item(content)
				call[key] = desc
			}
			var wg sync.WaitGroup
			for range 3 {
				s := start(t, source.Name)
				wg.Go(func() {
					reply, _, err := download(s, cache, call)
					if err != nil || !reply.Success {
						t.Errorf("%+v, %v", reply, err)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			want := slices.Sorted(maps.Keys(call))
			if c.folder == "" {
				want = nil
			}
			if got := cached(t, cache, c.folder); !slices.Equal(got, want) {
				t.Errorf("cache: %v", got)
			}
		})
	}
}

// TestSchemas compiles the schema of every source and tries it.
func TestSchemas(t *testing.T) {
	schema.Check(t, All, Schemas)
}
