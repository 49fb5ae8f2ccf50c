package native_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/native"
	_ "github.com/ossify/ossify/pipeline" // the engine, as in the program
)

// TestStartsBeforeTheEngine sees that modules start before the engine's packages
// are initialised.
func TestStartsBeforeTheEngine(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run", "^$")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	trace := string(out)
	here := strings.Index(trace, "init github.com/ossify/ossify/native ")
	engine := strings.Index(trace, "init github.com/ossify/ossify/pipeline ")
	if here < 0 || engine < 0 || here > engine {
		t.Errorf("the engine is initialised before modules start:\n%s", trace)
	}
}

// TestLibdir sees that every module of the libdir starts as itself.
func TestLibdir(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("_OSSIFY_PROGRAM", "/proc/self/exe")
	if err := native.Libdir(dir); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"stages", "assemblers", "inputs", "runners"} {
		metas, err := filepath.Glob(filepath.Join(dir, folder, "*.meta.json"))
		if err != nil || len(metas) == 0 {
			t.Errorf("%s: no modules (%v)", folder, err)
		}
		for _, meta := range metas {
			if _, err := os.Stat(strings.TrimSuffix(meta, ".meta.json")); err != nil {
				t.Errorf("%s has no program: %v", meta, err)
			}
		}
	}
	// A host service without its socket says what it is.
	out, err := exec.Command(filepath.Join(dir, "inputs", "org.osbuild.tree")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "host service") {
		t.Errorf("org.osbuild.tree: %v\n%s", err, out)
	}
}
