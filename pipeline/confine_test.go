package pipeline

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
)

// TestSourceNeeds is what a source gets to see for what it is told.
func TestSourceNeeds(t *testing.T) {
	for name, test := range map[string]struct {
		item, options, secrets            string
		files, providers, images, storage []string
	}{
		"nothing":           {item: `"https://example.com/a"`},
		"a file":            {item: `"file:///srv/a%20b"`, files: []string{"/srv/a b"}},
		"of this host":      {item: `{"url": "file://localhost/srv/a"}`, files: []string{"/srv/a"}},
		"of another host":   {item: `{"url": "file://elsewhere/srv/a"}`},
		"a mirror":          {item: `{"url": "http://x/a", "mirrors": ["file:///srv/../a"]}`, files: []string{"/a"}},
		"escaped":           {item: `{"url": "file:\/\/\/srv\/a"}`, files: []string{"/srv/a"}},
		"the root":          {item: `{"url": "file:///srv/.."}`},
		"of the kernel":     {item: `{"url": "file:///proc/self/environ", "mirrors": ["file:///sys/x", "file:///dev/sda", "file:///a/../proc/1/mem"]}`},
		"no URL":            {item: `{"data": "file:", "encoding": "base64"}`},
		"a repository":      {item: `{"remote": {"url": "file:///srv/repo", "secrets": {"name": "org.osbuild.mtls"}}}`, files: []string{"/srv/repo"}, providers: []string{"org.osbuild.mtls"}},
		"in the options":    {item: `{}`, options: `{"mirrors": {"m": {"url": "file:///srv/m", "secrets": {"name": "org.osbuild.rhsm"}}}}`, files: []string{"/srv/m"}, providers: []string{"org.osbuild.rhsm"}},
		"given":             {item: `{}`, secrets: `{"sslclientcert": "/c.pem", "deep": {"key": ["/k.pem", "relative"]}}`, files: []string{"/c.pem", "/k.pem"}},
		"an image":          {item: `{"image": {"name": "quay.io/a", "digest": "sha256:1"}}`, images: []string{"quay.io/a"}},
		"a stored image":    {item: `{"image": {"name": "a", "containers-transport": "containers-storage"}}`, storage: []string{}},
		"in a storage":      {item: `{"image": {"name": "a", "containers-transport": "containers-storage", "storage-location": "/s"}}`, storage: []string{"/s"}},
		"a name is no text": {item: `{"image": {"name": 7}, "url": 7}`},
	} {
		t.Run(name, func(t *testing.T) {
			n := findNeeds(map[string]json.RawMessage{"x": json.RawMessage(test.item)}, json.RawMessage(test.options), json.RawMessage(test.secrets))
			slices.Sort(n.files)
			if !slices.Equal(n.files, test.files) || !slices.Equal(n.images, test.images) || n.storage != (test.storage != nil) || !slices.Equal(n.locations, test.storage) {
				t.Errorf("got %+v", n)
			}
			if !slices.Equal(slices.Sorted(maps.Keys(n.secrets)), test.providers) {
				t.Errorf("secrets of %v, want %v", n.secrets, test.providers)
			}
		})
	}
}
