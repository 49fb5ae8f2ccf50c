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

// assemblerCase is a file of testdata. Refused is what the schema's error says,
// Error what the assembler's does; otherwise the image is made, and what inspect
// prints of it has each text of Want.
type assemblerCase struct {
	About   string          `json:"about"`
	Options json.RawMessage `json:"options"`
	Files   []string        `json:"files"` // in the tree
	Refused string          `json:"refused"`
	Error   string          `json:"error"`
	Want    []string        `json:"want"`
	NoBoot  bool            `json:"no_boot"` // the boot sector is empty
}

// assemblersByName are the functions of the table that write disks.
var assemblersByName = map[string]func(context.Context, *module.Args) error{
	"org.osbuild.qemu":  func(ctx context.Context, args *module.Args) error { return module.Run(ctx, args, qemu) },
	"org.osbuild.rawfs": func(ctx context.Context, args *module.Args) error { return module.Run(ctx, args, rawfs) },
}

func TestCases(t *testing.T) {
	for _, m := range All {
		if assemblersByName[m.Name] == nil {
			continue // it packs the tree: TestArchives
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
				var c assemblerCase
				dec := json.NewDecoder(bytes.NewReader(data))
				dec.DisallowUnknownFields()
				if err := dec.Decode(&c); err != nil {
					t.Fatal(err)
				}
				c.run(t, m.Name)
			})
		}
	}
}

func (c *assemblerCase) run(t *testing.T, name string) {
	if err := validate(t, name, c.Options); !expected(t, "schema", err, c.Refused) || c.Refused != "" {
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
	if err := assemblersByName[name](context.Background(), args); !expected(t, "assembler", err, c.Error) || c.Error != "" {
		return
	}
	var options struct{ Filename, Format string }
	if err := json.Unmarshal(c.Options, &options); err != nil {
		t.Fatal(err)
	}
	shown, raw := inspect(t, filepath.Join(output, options.Filename), options.Format)
	for _, want := range c.Want {
		if !strings.Contains(shown, want) {
			t.Errorf("%s: %q is not in\n%s", c.About, want, shown)
		}
	}
	start := make([]byte, 1)
	if _, err := raw.ReadAt(start, 0); err != nil {
		t.Fatal(err)
	}
	if boots := start[0] != 0; boots == c.NoBoot {
		t.Errorf("%s: boot code is there: %v", c.About, boots)
	}
}

// inspect returns what qemu-img info prints of an image and, of the raw disk in it,
// sfdisk --dump, blkid of every partition and the names of files in an ext4 or
// btrfs without a table.
func inspect(t *testing.T, image, format string) (shown string, raw *os.File) {
	t.Helper()
	if format == "raw.xz" {
		command(t, "sh", "-c", `xz -d < "$1" > "$1.raw"`, "sh", image)
		image += ".raw"
	}
	shown = command(t, "qemu-img", "info", image)
	disk := filepath.Join(t.TempDir(), "raw")
	command(t, "qemu-img", "convert", "-O", "raw", image, disk)
	shown += command(t, "sh", "-c", `
		kind=$(blkid -p -s TYPE -o value "$1") || kind=
		case $kind in
		ext4) blkid -p -o export "$1"; debugfs -R "ls -p /etc" "$1" ;;
		btrfs) blkid -p -o export "$1"; btrfs inspect-internal dump-tree -t fs "$1" | grep -o "name: .*" ;;
		*) sfdisk --dump "$1"
			sfdisk -l -o Start,Sectors -q "$1" | tail -n +2 | while read start size; do
				blkid -p -O $((start * 512)) -S $((size * 512)) -o export "$1" || [ $? = 2 ]
			done ;;
		esac`, "sh", disk)
	raw, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	return shown, raw
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

// validate checks options with both forms of the schema.
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
