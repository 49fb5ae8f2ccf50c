package stages

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ossify/ossify/module"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var update = flag.Bool("update", false, "rewrite what the cases expect with what happens")

// caseFolders are the stages' folders, each with its case files.
func caseFolders(t *testing.T) map[string][]string {
	t.Helper()
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, entry := range entries {
		if !entry.IsDir() || entry.Name() == "fuzz" {
			continue
		}
		files, err := filepath.Glob(filepath.Join("testdata", entry.Name(), "*.txtar"))
		if err != nil {
			t.Fatal(err)
		}
		out[entry.Name()] = files
	}
	return out
}

// TestComplete holds table, schemas and cases together: each stage has all of
// them, with at least one accepted and one refused case.
func TestComplete(t *testing.T) {
	var names []string
	for _, stage := range All {
		names = append(names, stage.Name)
	}
	if !slices.IsSorted(names) {
		t.Errorf("all.go: the table is not sorted by name: %v", names)
	}
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("all.go: a stage is in the table twice: %v", names)
	}
	schemas, err := fs.Glob(Schemas, "*.meta.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range schemas {
		name := strings.TrimSuffix(file, ".meta.json")
		if !slices.Contains(names, name) {
			t.Errorf("%s: all.go has no stage %s", file, name)
		}
	}
	folders := caseFolders(t)
	for folder := range folders {
		if !slices.Contains(names, folder) {
			t.Errorf("testdata/%s: all.go has no stage of this name", folder)
		}
	}
	for _, name := range names {
		if !slices.Contains(schemas, name+".meta.json") {
			t.Errorf("%s: has no %s.meta.json", name, name)
		}
		accepted, refused := 0, 0
		for _, file := range folders[name] {
			c, err := readCase(file)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			if _, ok := c.get("want"); ok {
				accepted++
			} else {
				refused++
			}
		}
		if accepted == 0 || refused == 0 {
			t.Errorf("%s: testdata/%s has %d accepted and %d refused cases, needs one of each", name, name, accepted, refused)
		}
	}
}

// TestCases runs every case file; testdata/README.md says how they are read.
func TestCases(t *testing.T) {
	for folder, files := range caseFolders(t) {
		stage, ok := module.Find(All, folder)
		if !ok {
			t.Errorf("testdata/%s: there is no such stage", folder)
			continue
		}
		t.Run(folder, func(t *testing.T) {
			for _, file := range files {
				t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
					runCase(t, stage, file)
				})
			}
		})
	}
}

func runCase(t *testing.T, stage module.Module, file string) {
	c, where, options, err := openCase(t, stage.Name, file)
	if _, ok := c.get("refused"); ok || err != nil {
		expectError(t, c, file, "refused", err)
		return
	}
	changed, shown, err := where.apply(t, c, options, func(args map[string]any) error { return runStage(stage, args) })
	if _, ok := c.get("error"); ok || err != nil {
		if err != nil {
			err = errors.New(strings.ReplaceAll(err.Error(), where.dir, "$CASE"))
		}
		expectError(t, c, file, "error", err)
		return
	}
	compare(t, c, file, where, changed, shown)
}

// openCase reads a case, makes its trees and checks its options: the error is
// the schema's refusal.
func openCase(t *testing.T, stage, file string) (*caseFile, *trees, json.RawMessage, error) {
	c, err := readCase(file)
	if err != nil {
		t.Fatal(err)
	}
	where := &trees{dir: caseDir(t)}
	// Stages let other users' processes into the tree.
	if err := os.Chmod(where.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := where.build(c); err != nil {
		t.Fatal(err)
	}
	options, err := checkSchema(stage, where, c)
	var refusal *jsonschema.ValidationError
	if err != nil && !errors.As(err, &refusal) {
		t.Fatal(err)
	}
	return c, where, options, err
}

// apply runs a stage on the trees and returns what it changed, what the
// commands of the part "show" print of that, and the stage's error.
func (t *trees) apply(tb testing.TB, c *caseFile, options json.RawMessage, run func(args map[string]any) error) (changed []treeLine, shown map[string]string, err error) {
	tb.Helper()
	args, err := t.arguments(c, options)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.RemoveAll(module.RecordPath); err != nil {
		tb.Fatal(err)
	}
	before, err := t.snapshot()
	if err != nil {
		tb.Fatal(err)
	}
	release, err := t.layBuildRoot()
	defer func() {
		if err := release(); err != nil {
			tb.Error(err)
		}
	}()
	if err != nil {
		tb.Fatal(err)
	}
	for _, tool := range c.lines("missing") {
		release, err := hideTool(tool)
		defer func() {
			if err := release(); err != nil {
				tb.Error(err)
			}
		}()
		if err != nil {
			tb.Fatal(err)
		}
	}
	path := os.Getenv("PATH")
	defer os.Setenv("PATH", path)
	os.Setenv("PATH", filepath.Join(t.dir, "bin")+":"+path)
	if err := run(args); err != nil {
		return nil, nil, err
	}
	after, err := t.snapshot()
	if err != nil {
		tb.Fatal(err)
	}
	if shown, err = t.show(c); err != nil {
		tb.Fatal(err)
	}
	return changes(before, after, c.lines("ignore")), shown, nil
}

// runStage puts the arguments where a sandbox would and runs the stage's
// program in this process.
func runStage(stage module.Module, args map[string]any) error {
	if err := putArguments(args); err != nil {
		return err
	}
	return stage.Main(context.Background(), nil)
}

func putArguments(args map[string]any) error {
	data, err := json.Marshal(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(module.ArgumentsPath), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(module.RecordPath); err != nil {
		return err
	}
	return os.WriteFile(module.ArgumentsPath, data, 0o644)
}

// compare checks what changed against the case, or updates the case.
func compare(t *testing.T, c *caseFile, file string, where *trees, changed []treeLine, shown map[string]string) {
	t.Helper()
	uncompared := uncomparedPaths(c)
	var got strings.Builder
	listings := maps.Clone(shown)
	for _, line := range changed {
		switch {
		case line.kind == "gone":
			fmt.Fprintf(&got, "%s: gone\n", line.path)
			continue
		case uncompared[line.path]:
			line.content = anyContent
		case strings.HasPrefix(line.content, "archive "):
			listings["archive "+line.path] = where.archives[line.path]
		}
		fmt.Fprintln(&got, line)
	}
	if *update {
		c.set("want", got.String())
		for name, listing := range listings {
			c.set(name, listing)
		}
		if err := c.write(file); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want := join(c.lines("want")); got.String() != want {
		t.Errorf("%s\nwant:\n%sgot:\n%s", file, want, got.String())
	}
	for name, listing := range listings {
		want := join(c.lines(name))
		if strings.HasPrefix(name, "shown ") { // its empty lines count
			want, _ = c.get(name)
		}
		if listing != want {
			t.Errorf("%s: %s\nwant:\n%sgot:\n%s", file, name, want, listing)
		}
	}
}

// uncomparedPaths are those whose content the case does not compare: as it says,
// or because it compares what commands print of them.
func uncomparedPaths(c *caseFile) map[string]bool {
	out := map[string]bool{}
	for _, text := range c.lines("want") {
		path, rest, _ := strings.Cut(text, ": ")
		if fields := strings.Fields(rest); len(fields) > 3 && fields[3] == anyContent {
			out[path] = true
		}
	}
	for _, text := range c.lines("show") {
		path, _, _ := strings.Cut(text, ": ")
		out[path] = true
	}
	return out
}

func join(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

// expectError checks an error against the case's part of that kind, or updates
// the case.
func expectError(t *testing.T, c *caseFile, file, kind string, err error) {
	t.Helper()
	if _, ok := c.get(kind); !ok {
		t.Fatalf("%s: unexpected error (%s): %v", file, kind, err)
	}
	if err == nil {
		t.Fatalf("%s: no error, want one (%s) with:\n%s", file, kind, join(c.lines(kind)))
	}
	if *update {
		text := err.Error()
		if _, details, ok := strings.Cut(text, "\n"); ok && kind == "refused" {
			text = details
		}
		c.set(kind, strings.TrimRight(text, "\n")+"\n")
		if err := c.write(file); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, line := range c.lines(kind) {
		if !strings.Contains(err.Error(), line) {
			t.Errorf("%s: error does not contain %q:\n%v", file, line, err)
		}
	}
}
