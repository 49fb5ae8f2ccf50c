package stages

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
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
	c, err := readCase(file)
	if err != nil {
		t.Fatal(err)
	}
	where := &trees{dir: t.TempDir()}
	// Stages let other users' processes into the tree.
	if err := os.Chmod(where.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := where.build(c); err != nil {
		t.Fatal(err)
	}
	options, err := checkSchema(stage.Name, where, c)
	var refusal *jsonschema.ValidationError
	if _, ok := c.get("refused"); ok || errors.As(err, &refusal) {
		expectError(t, c, file, "refused", err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	args, err := where.arguments(c, options)
	if err != nil {
		t.Fatal(err)
	}
	before, err := where.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range c.lines("missing") {
		release, err := hideTool(tool)
		defer func() {
			if err := release(); err != nil {
				t.Error(err)
			}
		}()
		if err != nil {
			t.Fatal(err)
		}
	}
	err = runStage(stage, args)
	if _, ok := c.get("error"); ok || err != nil {
		if err != nil {
			err = errors.New(strings.ReplaceAll(err.Error(), where.dir, "$CASE"))
		}
		expectError(t, c, file, "error", err)
		return
	}
	after, err := where.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, c, file, where, changes(before, after, c.lines("ignore")))
}

// runStage puts the arguments where a sandbox would and runs the stage's
// program in this process.
func runStage(stage module.Module, args map[string]any) error {
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
	return stage.Main(context.Background(), nil)
}

// compare checks what changed against the case, or updates the case.
func compare(t *testing.T, c *caseFile, file string, where *trees, changed []treeLine) {
	t.Helper()
	uncompared := map[string]bool{}
	for _, text := range c.lines("want") {
		path, rest, _ := strings.Cut(text, ": ")
		if fields := strings.Fields(rest); len(fields) > 3 && fields[3] == anyContent {
			uncompared[path] = true
		}
	}
	var got strings.Builder
	listings := map[string]string{}
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
		if want := join(c.lines(name)); listing != want {
			t.Errorf("%s: %s\nwant:\n%sgot:\n%s", file, name, want, listing)
		}
	}
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
