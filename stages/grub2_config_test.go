package stages

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/ossify/ossify/module"
)

// TestGrubConfig compares whole files with NAME.cfg of the stage's testdata; the cases
// of the stage show the rest.
func TestGrubConfig(t *testing.T) {
	for _, name := range []string{"debian", "fedora"} {
		t.Run(name, func(t *testing.T) {
			var c struct {
				Options   json.RawMessage `json:"options"`
				OSRelease string          `json:"os-release"`
				Config    string          `json:"config"`
			}
			golden := filepath.Join("testdata", "org.osbuild.grub2.legacy", name)
			data, err := os.ReadFile(golden + ".json")
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, &c); err != nil {
				t.Fatal(err)
			}
			tree := t.TempDir()
			args := &module.Args{Tree: tree, Options: c.Options}
			if err := replaceFile(args, "/etc/os-release", c.OSRelease); err != nil {
				t.Fatal(err)
			}
			if err := module.Run(context.Background(), args, grub2Legacy); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(tree, c.Config))
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(golden+".cfg", got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden + ".cfg")
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("%s is\n%s\nwant\n%s", c.Config, got, want)
			}
		})
	}
}
