package compose

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// Each archive in testdata/blueprint has a blueprint and the message with which
// it is refused.
func TestBlueprintRefused(t *testing.T) {
	paths, err := filepath.Glob("testdata/blueprint/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil || len(archive.Files) != 2 {
				t.Fatalf("want two files: %v", err)
			}
			_, err = ParseBlueprint("blueprint.toml", archive.Files[0].Data)
			if err == nil {
				t.Fatal("it is accepted")
			}
			got := err.Error() + "\n"
			if strings.Count(got, "\n") != 1 {
				t.Errorf("more than one line: %s", got)
			}
			if *update {
				archive.Files[1].Data = []byte(got)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if want := string(archive.Files[1].Data); got != want {
				t.Errorf("got  %swant %s", got, want)
			}
		})
	}
}

func TestReadBlueprint(t *testing.T) {
	if _, err := ReadBlueprint("testdata/nothing.toml"); err == nil || !strings.Contains(err.Error(), "testdata/nothing.toml") {
		t.Errorf("got %v", err)
	}
	for _, name := range []string{"debian-minimal", "fedora-minimal"} {
		bp, err := ReadBlueprint("../samples/" + name + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		if bp.Name != name || len(bp.Packages) == 0 || len(bp.Customizations.Users) != 1 {
			t.Errorf("the sample is read as %+v", bp)
		}
		if _, err := findDistro(bp.Distro); err != nil {
			t.Error(err)
		}
	}
}

func TestSize(t *testing.T) {
	for _, c := range []struct {
		in   any
		want Size
		err  string
	}{
		{int64(512), 512, ""},
		{"512", 512, ""},
		{"4 GiB", 4 << 30, ""},
		{"4GiB", 4 << 30, ""},
		{"1.5 GB", 1_500_000_000, ""},
		{"2 TiB", 2 << 40, ""},
		{"10 kB", 10_000, ""},
		{int64(-1), 0, "negative"},
		{"4 GIB", 0, `unknown unit "GIB"`},
		{"0.3 B", 0, "not a whole number"},
		{"9000000 TiB", 0, "below 8 EiB"},
		{"-4 GiB", 0, "is not a size"},
		{4.5, 0, "is not a size"},
	} {
		var got Size
		err := got.UnmarshalTOML(c.in)
		if c.err == "" && (err != nil || got != c.want) {
			t.Errorf("%v: got %d, %v", c.in, got, err)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%v: got %v, want %q", c.in, err, c.err)
		}
	}
}

func TestLocateKeys(t *testing.T) {
	text := `a = 1
text = """
[not]
b = 2
"""
list = [
  "x",
]
[[packages]]
name = "one"
[[packages]]
name = "two" # [comment]
[customizations."quoted"]
"key" . sub = '''one line'''
[[customizations.user]]
name = "a"
[[customizations.user.deep]]
x = 1
`
	lines := locateKeys(text)
	for path, want := range map[string]string{
		"a": ":1", "text": ":2", "list": ":6", "packages[0].name": ":10", "packages[1].name": ":12",
		"packages.name": ":10", "customizations.quoted.key.sub": ":14",
		"customizations.user[0].deep[0].x": ":18", "customizations.user[0].missing": ":15",
		"b": "", "not": "", "nowhere": "",
	} {
		if got := lines.at(path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}

func TestOwnerScript(t *testing.T) {
	got := ownerScript(&Customizations{
		Directories: []Directory{{Path: "/a", User: "anna", Mode: "2770"}, {Path: "/b", User: "root"}},
		Files:       []File{{Path: "/it's", Group: "12", Mode: "0644"}},
	})
	want := "set -e\nchown -h anna:0 '/a'\nchmod 2770 '/a'\nchown -h 0:12 '/it'\\''s'\n"
	if got != want {
		t.Errorf("got %q", got)
	}
}

func TestKernels(t *testing.T) {
	c := composer{os: []pinned{
		{name: "linux-image-6.1.0-9-amd64"}, {name: "linux-image-amd64"}, {name: "linux-image-6.1.0-10-amd64-unsigned"},
		{name: "linux-image-6.1.0-10-amd64-dbg"}, {name: "linux-headers-6.1.0-10-amd64"},
	}}
	got := strings.Join(c.kernels(), " ")
	if want := "6.1.0-10-amd64 6.1.0-9-amd64"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The root partition ends before the backup of the partition table.
func TestLayout(t *testing.T) {
	for size, want := range map[Size]int64{0: 4 << 30, 1 << 30: 1 << 30, 3<<20 + 1: 4 << 20} {
		c := composer{bp: &Blueprint{Name: "x", Customizations: Customizations{Disk: Disk{MinSize: size}}}, image: imageTypes[0]}
		if got := c.diskSize(); got != want {
			t.Errorf("size %d: got %d, want %d", size, got, want)
		}
	}
	c := composer{bp: &Blueprint{Name: "x"}, image: imageTypes[0]}
	data, err := json.Marshal(c.diskOptions())
	if err != nil {
		t.Fatal(err)
	}
	var o struct {
		Size       int64
		Partitions []struct{ Start, Size int64 }
	}
	if err := json.Unmarshal(data, &o); err != nil {
		t.Fatal(err)
	}
	end := int64(2048)
	for i, p := range o.Partitions {
		if p.Start != end {
			t.Errorf("partition %d starts at %d, not %d", i+1, p.Start, end)
		}
		end = p.Start + p.Size
	}
	if last := o.Size/512 - 33; end > last {
		t.Errorf("the last partition ends at %d, after %d", end, last)
	}
}
