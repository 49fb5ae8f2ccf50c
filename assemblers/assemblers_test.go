package assemblers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ossify/ossify/module"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestComplete holds table, schemas and cases together.
func TestComplete(t *testing.T) {
	var names []string
	for _, m := range All {
		names = append(names, m.Name)
		cases, err := filepath.Glob("testdata/" + m.Name + "/*.json")
		if err != nil || len(cases) < 2 {
			t.Errorf("testdata/%s has %d cases (%v), needs an accepted and a refused one", m.Name, len(cases), err)
		}
		if _, err := Schemas.ReadFile(m.Name + ".meta.json"); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("all.go: the table is not sorted by name: %v", names)
	}
	files, err := fs.Glob(Schemas, "*.meta.json")
	if err != nil || len(files) != len(names) {
		t.Errorf("%d schemas (%v) for %d assemblers", len(files), err, len(names))
	}
}

// qemuCase is a file of testdata/org.osbuild.qemu. Refused is what the
// schema's error says, Error what the assembler's does; otherwise the image is
// made, and qemu-img info and, of the raw image, sfdisk --dump show each text of
// Want.
type qemuCase struct {
	About   string          `json:"about"`
	Options json.RawMessage `json:"options"`
	Files   []string        `json:"files"` // in the tree
	Refused string          `json:"refused"`
	Error   string          `json:"error"`
	Want    []string        `json:"want"`
	NoBoot  bool            `json:"no_boot"` // the boot sector is empty
}

func TestQemu(t *testing.T) {
	files, err := filepath.Glob("testdata/org.osbuild.qemu/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var c qemuCase
			dec := json.NewDecoder(bytes.NewReader(data))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&c); err != nil {
				t.Fatal(err)
			}
			c.run(t)
		})
	}
}

func (c *qemuCase) run(t *testing.T) {
	if err := validate(t, "org.osbuild.qemu", c.Options); !expected(t, "schema", err, c.Refused) || c.Refused != "" {
		return
	}
	tree, output := t.TempDir(), t.TempDir()
	for _, name := range c.Files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := &module.Args{Tree: output, Options: c.Options, Inputs: map[string]module.Input{"tree": {Path: tree}}}
	if err := module.Run(context.Background(), args, qemu); !expected(t, "assembler", err, c.Error) || c.Error != "" {
		return
	}
	var options qemuOptions
	if err := json.Unmarshal(c.Options, &options); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(output, options.Filename)
	if options.Format == "raw.xz" {
		command(t, "sh", "-c", `xz -d < "$1" > "$1.raw"`, "sh", image)
		image += ".raw"
	}
	shown := command(t, "qemu-img", "info", image)
	raw := filepath.Join(t.TempDir(), "raw")
	command(t, "qemu-img", "convert", "-O", "raw", image, raw)
	shown += command(t, "sfdisk", "--dump", raw)
	for _, want := range c.Want {
		if !strings.Contains(shown, want) {
			t.Errorf("%s: %q is not in\n%s", c.About, want, shown)
		}
	}
	disk, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if boots := disk[0] != 0; boots == c.NoBoot {
		t.Errorf("%s: boot code is there: %v", c.About, boots)
	}
}

// expected tells whether err is as it should be.
func expected(t *testing.T, who string, err error, want string) bool {
	t.Helper()
	switch {
	case want == "" && err == nil:
		return true
	case want != "" && err != nil && strings.Contains(err.Error(), want):
		return true
	}
	t.Errorf("the %s says %v, want %q", who, err, want)
	return false
}

// validate checks options with the forms of the schema that there are.
func validate(t *testing.T, name string, options json.RawMessage) error {
	t.Helper()
	data, err := Schemas.ReadFile(name + ".meta.json")
	if err != nil {
		t.Fatal(err)
	}
	var meta struct {
		Schema  json.RawMessage `json:"schema"`
		Schema2 struct {
			Options json.RawMessage `json:"options"`
		} `json:"schema_2"`
	}
	if err := json.Unmarshal(data, &meta); err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(options))
	if err != nil {
		t.Fatal(err)
	}
	for i, schema := range []json.RawMessage{meta.Schema, meta.Schema2.Options} {
		if schema == nil {
			continue
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
		if err != nil {
			t.Fatal(err)
		}
		compiler, url := jsonschema.NewCompiler(), fmt.Sprintf("mem:///%d", i)
		compiler.DefaultDraft(jsonschema.Draft4)
		if err := compiler.AddResource(url, doc); err != nil {
			t.Fatal(err)
		}
		compiled, err := compiler.Compile(url)
		if err != nil {
			t.Fatal(err)
		}
		if err := compiled.Validate(value); err != nil {
			return err
		}
	}
	return nil
}

// command runs a program that must succeed and returns what it prints.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := module.LookTool(name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return string(out)
}
