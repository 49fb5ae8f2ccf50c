package assemblers

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// archiveCase is a file of testdata of an assembler that packs the tree. Refused
// is what the schema's error says, Error what the assembler's does; otherwise
// the command Show, run in the output directory, prints the lines Shown.
type archiveCase struct {
	About   string            `json:"about"`
	Options json.RawMessage   `json:"options"`
	Tree    map[string]string `json:"tree"`   // content of files; "-> TARGET" is a link
	Record  []string          `json:"record"` // lines of the tree's side record
	Missing string            `json:"missing"`
	Refused string            `json:"refused"`
	Error   string            `json:"error"`
	Show    string            `json:"show"`
	Shown   []string          `json:"shown"`
	// Differs says why the outcome means to differ from osbuild's assembler.
	Differs string `json:"differs"`
}

// archiveCases calls f with each case of the assemblers that pack the tree.
func archiveCases(t *testing.T, f func(t *testing.T, m module.Module, c *archiveCase)) {
	for _, m := range All {
		if assemblersByName[m.Name] != nil {
			continue // it writes disks: TestCases
		}
		files, err := filepath.Glob("testdata/" + m.Name + "/*.json")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			t.Run(m.Name+"/"+strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				c := &archiveCase{}
				dec := json.NewDecoder(bytes.NewReader(data))
				dec.DisallowUnknownFields()
				if err := dec.Decode(c); err != nil {
					t.Fatal(err)
				}
				if err := validate(t, m.Name, c.Options); !expected(t, "schema", err, c.Refused) || c.Refused != "" {
					return
				}
				f(t, m, c)
			})
		}
	}
}

// TestArchives runs every case of the assemblers that pack the tree.
func TestArchives(t *testing.T) {
	archiveCases(t, func(t *testing.T, m module.Module, c *archiveCase) {
		output := t.TempDir()
		args := c.arguments(t, output)
		if c.Missing != "" {
			hideTool(t, c.Missing)
		}
		if err := runModule(m, args); !expected(t, "assembler", err, c.Error) || c.Error != "" {
			return
		}
		if got := c.show(t, output); got != c.shown() {
			t.Errorf("%s: got\n%s\nwant\n%s", c.About, got, c.shown())
		}
	})
}

// arguments makes the tree and returns what the engine would put before the
// assembler.
func (c *archiveCase) arguments(t *testing.T, output string) *module.Args {
	t.Helper()
	tree := t.TempDir()
	for name, content := range c.Tree {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	old := []unix.Timespec{{Sec: 400000000}, {Sec: 400000000}}
	for name := range c.Tree {
		for ; ; name = filepath.Dir(name) {
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(tree, name), old, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				t.Fatal(err)
			}
			if name == "." {
				break
			}
		}
	}
	input := module.Input{Path: tree}
	if len(c.Record) > 0 {
		input.Record = filepath.Join(t.TempDir(), "record")
		if err := os.WriteFile(input.Record, []byte(strings.Join(c.Record, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &module.Args{Tree: output, Options: c.Options, Inputs: map[string]module.Input{"tree": input}}
}

// hideTool takes a program from the build root, which in tests is this machine,
// until the test ends.
func hideTool(t *testing.T, tool string) {
	t.Helper()
	for {
		path, err := module.LookTool(tool)
		if err != nil {
			return
		}
		if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("hide %s: %v", path, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(path, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// runModule puts the arguments where a sandbox would and runs the assembler's
// program in this process.
func runModule(m module.Module, args *module.Args) error {
	data, err := json.Marshal(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(module.ArgumentsPath), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(module.ArgumentsPath, data, 0o644); err != nil {
		return err
	}
	return m.Main(context.Background(), nil)
}

// shown is what show is to return.
func (c *archiveCase) shown() string { return strings.Join(c.Shown, "\n") }

// show runs the case's command in the output directory.
func (c *archiveCase) show(t *testing.T, output string) string {
	t.Helper()
	cmd := exec.Command("sh", "-euc", c.Show)
	cmd.Dir = output
	cmd.Env = []string{"PATH=" + module.ToolPath, "LC_ALL=C", "TZ=UTC"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("show: %v: %s", err, out)
	}
	return strings.TrimRight(string(out), "\n")
}
