package sources

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/test/namespace"
)

// TestMain lets the test's program be a source, as ossify's own is, and gives
// the tests what a source has in the engine.
func TestMain(m *testing.M) {
	if source, ok := module.Find(All, filepath.Base(os.Args[0])); ok {
		if err := source.Main(context.Background(), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Container storage is for root, or for a user in a namespace.
	namespace.Main(m, func() error { return nil })
}

// start starts a source as a process of its own.
func start(t *testing.T, name string) *sandbox.Service {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(sandbox.Program(), path); err != nil {
		t.Fatal(err)
	}
	s, err := sandbox.StartService(t.Context(), path, "", t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// download calls a running source as the engine does.
func download(s *sandbox.Service, cache string, items map[string]any) (reply module.SourceResult, signals int, err error) {
	err = s.Call("download", map[string]any{
		"items": items, "options": map[string]any{}, "cache": cache, "output": nil, "checksums": []string{},
	}, &reply, func(json.RawMessage) { signals++ })
	return reply, signals, err
}

func sha(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// cacheLines lists what is below the cache, partial files too.
func cacheLines(t *testing.T, dir string) map[string]string {
	t.Helper()
	lines := map[string]string{}
	err := filepath.Walk(dir, func(path string, st os.FileInfo, err error) error {
		if err != nil || st.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		lines[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
