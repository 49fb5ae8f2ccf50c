package native_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ossify/ossify/native"
	_ "github.com/ossify/ossify/pipeline" // the engine, as in the program
	"github.com/ossify/ossify/sources"
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

var update = flag.Bool("update", false, "write cases.txt")

// TestCaseCounts holds cases.txt together with the folders of cases.
func TestCaseCounts(t *testing.T) {
	var lines []string
	for _, family := range native.Families(native.Family{Folder: "sources", Table: sources.All}) {
		for _, m := range family.Table {
			files, err := filepath.Glob(filepath.Join("..", family.Folder, "testdata", m.Name, "*"))
			if err != nil {
				t.Fatal(err)
			}
			accepted, refused := 0, 0
			for _, file := range files {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if filepath.Base(file) == "schema.json" { // of a host service
					var both struct{ Accepted, Refused []json.RawMessage }
					if err := json.Unmarshal(data, &both); err != nil {
						t.Fatalf("%s: %v", file, err)
					}
					accepted, refused = accepted+len(both.Accepted), refused+len(both.Refused)
				} else if refusal.Match(data) {
					refused++
				} else {
					accepted++
				}
			}
			// A runner has no options.
			if family.Folder != "runners" && (accepted == 0 || refused == 0) {
				t.Errorf("%s/%s has %d accepted and %d refused cases, needs one of each", family.Folder, m.Name, accepted, refused)
			}
			lines = append(lines, fmt.Sprintf("%s/%s %d %d\n", family.Folder, m.Name, accepted, refused))
		}
	}
	want := strings.Join(lines, "")
	if *update {
		if err := os.WriteFile("cases.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile("cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("cases.txt is not what the folders hold: go test ./native -update writes it")
	}
}

// refusal is what makes a case one that is refused: a part of a text archive, or a
// member of a JSON object.
var refusal = regexp.MustCompile(`(?mi)^-- (refused|error) --$|^\s*"(refused|error)":`)

// TestForeign sees that no module is both native and osbuild's alone.
func TestForeign(t *testing.T) {
	for _, family := range native.Families() {
		for _, m := range family.Table {
			if native.Foreign(family.Folder, m.Name) {
				t.Errorf("foreign.txt has %s/%s, which is native", family.Folder, m.Name)
			}
		}
	}
	if !native.Foreign("stages", "org.osbuild.ostree.init") || native.Foreign("stages", "org.osbuild.nowhere") {
		t.Error("foreign.txt lacks modules of the ostree family")
	}
}
