// Package test holds the end-to-end tests: they run the ossify program as a
// user does, as an ordinary user, on real namespaces, layers and packages.
package test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// program returns the ossify that is tested: $OSSIFY, or the one of `make build`.
func program(t testing.TB) string {
	t.Helper()
	path := os.Getenv("OSSIFY")
	if path == "" {
		path = "../build/ossify"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (run make build first, or set OSSIFY)", err)
	}
	return path
}

// workDir makes a directory on a real filesystem (an overlay's upper directory
// cannot be on every tmpfs) and removes it with its files of subordinate ids.
func workDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	ossify := program(t)
	t.Cleanup(func() {
		if out, err := exec.Command(ossify, "unshare", "rm", "-rf", dir).CombinedOutput(); err != nil {
			t.Errorf("remove %s: %v\n%s", dir, err, out)
		}
	})
	return dir
}

// TestScripts runs testdata/script/*.txtar: ossify, also as osbuild, is on PATH,
// $STORE is a store of the script's own, $SERVER serves the script's directory,
// in which v2 is what the registry $REGISTRY has.
func TestScripts(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"ossify", "osbuild"} {
		if err := os.Symlink(program(t), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			server := httptest.NewServer(serve(env.WorkDir))
			env.Defer(server.Close)
			stores, err := os.MkdirTemp("/var/tmp", "ossify-test-")
			if err != nil {
				return err
			}
			env.Defer(func() {
				out, err := exec.Command(filepath.Join(bin, "ossify"), "unshare", "rm", "-rf", stores).CombinedOutput()
				if err != nil {
					t.Errorf("remove %s: %v\n%s", stores, err, out)
				}
			})
			env.Setenv("PATH", bin+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
			env.Setenv("STORE", filepath.Join(stores, "store"))
			env.Setenv("OSSIFY_STORE", filepath.Join(stores, "store"))
			env.Setenv("SERVER", server.URL)
			env.Setenv("REGISTRY", strings.TrimPrefix(server.URL, "http://"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit":     exitStatus,
			"expand":   expand,
			"registry": startRegistry,
		},
	})
}

// serve serves the files of a directory, manifests of images with their types.
func serve(dir string) http.Handler {
	files := http.FileServer(http.Dir(dir))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			var m struct{ MediaType string }
			data, err := os.ReadFile(filepath.Join(dir, filepath.Clean(r.URL.Path)))
			if err == nil && json.Unmarshal(data, &m) == nil {
				w.Header().Set("Content-Type", m.MediaType)
			}
		}
		files.ServeHTTP(w, r)
	})
}

// exitStatus is "exit N command...": the command ends with that status.
func exitStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit STATUS COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	status := 0
	if exit, ok := err.(*exec.ExitError); ok {
		status = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(status) != args[0] {
		ts.Fatalf("status %d, want %s", status, args[0])
	}
}

// expand is "expand FILE": ${NAME} in it becomes the variable's value, and
// ${sha256:PATH} and ${size:PATH} what that file has.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: expand FILE")
	}
	text := os.Expand(ts.ReadFile(args[0]), func(name string) string {
		what, path, ok := strings.Cut(name, ":")
		if !ok {
			return ts.Getenv(name)
		}
		data := []byte(ts.ReadFile(path))
		switch what {
		case "sha256":
			sum := sha256.Sum256(data)
			return hex.EncodeToString(sum[:])
		case "size":
			return fmt.Sprint(len(data))
		}
		ts.Fatalf("expand: unknown %s", name)
		return ""
	})
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
}
