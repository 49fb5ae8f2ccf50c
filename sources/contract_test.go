package sources

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/test/schema"
)

// itemsOf makes an item of that content for each source.
func itemsOf(t *testing.T) map[string]func(content string) any {
	dir := t.TempDir()
	return map[string]func(string) any{
		"org.osbuild.curl": func(content string) any {
			path := filepath.Join(dir, sha(content))
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			return "file://" + path
		},
		"org.osbuild.inline": func(content string) any {
			return map[string]string{"encoding": "base64", "data": base64.StdEncoding.EncodeToString([]byte(content))}
		},
	}
}

// TestContract is what every source does, as a process that speaks the ABI.
func TestContract(t *testing.T) {
	items := itemsOf(t)
	for _, source := range All {
		t.Run(source.Name, func(t *testing.T) {
			item := items[source.Name]
			if item == nil {
				t.Fatal("no item to test it with")
			}
			cache := t.TempDir()
			s := start(t, source.Name)
			call := map[string]any{sha("one"): item("one"), sha(""): item(""), sha("wanted"): item("other"), "sha256:ab": item("short")}
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
				} else if !strings.Contains(r.Error, "checksum") {
					t.Errorf("error %q does not speak of the checksum", r.Error)
				}
			}
			want := map[string]string{"org.osbuild.files/" + sha("one"): "one", "org.osbuild.files/" + sha(""): ""}
			if got := cacheLines(t, cache); good != 2 || !reflect.DeepEqual(got, want) {
				t.Errorf("%d items succeeded, cache: %v", good, got)
			}
			st, err := os.Stat(filepath.Join(cache, "org.osbuild.files", sha("one")))
			if err != nil || st.Mode().Perm() != 0o644 {
				t.Errorf("mode of the content: %v, %v", st, err)
			}
			// What is there is not fetched again, on the same connection.
			reply, _, err = download(s, cache, map[string]any{sha("one"): item("ONE")})
			wantReply := module.SourceResult{
				Name: "source " + source.Name, SourceType: source.Name, Success: true,
				Output:  "source " + source.Name + " finished successfully",
				Results: []module.ItemResult{{Success: true, Metadata: map[string]any{"checksum": sha("one"), "cached": true}}},
			}
			if err != nil || !reflect.DeepEqual(reply, wantReply) {
				t.Errorf("cached: %+v, %v", reply, err)
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

// TestTwoProcesses lets two builds want the same files at the same time.
func TestTwoProcesses(t *testing.T) {
	items := itemsOf(t)
	for _, source := range All {
		t.Run(source.Name, func(t *testing.T) {
			cache, call := t.TempDir(), map[string]any{}
			want := map[string]string{}
			for _, c := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
				call[sha(c)] = items[source.Name](c)
				want["org.osbuild.files/"+sha(c)] = c
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
			if got := cacheLines(t, cache); !reflect.DeepEqual(got, want) {
				t.Errorf("cache: %v", got)
			}
		})
	}
}

// TestSchemas compiles the schema of every source and tries it.
func TestSchemas(t *testing.T) {
	accepted := map[string][]string{
		"org.osbuild.inline": {`{"items":{"md5:00000000000000000000000000000000":{"encoding":"base64","data":""}}}`},
		"org.osbuild.curl": {
			`{"items":{"md5:00000000000000000000000000000000":"http://localhost/"}}`,
			`{"urls":{"md5:00000000000000000000000000000000":{"url":"http://localhost/","size":1,"mirrors":[],"insecure":true,"secrets":{"name":"x"}}}}`,
		},
	}
	refused := map[string][]string{
		"org.osbuild.inline": {`{}`, `{"items":{"md5:00000000000000000000000000000000":{"encoding":"hex","data":""}}}`, `{"items":{"x":{}}}`},
		"org.osbuild.curl":   {`{}`, `{"items":{},"urls":{}}`, `{"items":{"md5:00000000000000000000000000000000":{"size":1}}}`, `{"items":{"x":"y"}}`},
	}
	schema.Check(t, All, Schemas, accepted, refused)
}
