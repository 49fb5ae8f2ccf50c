package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/test/rpmrepo/rpms"
)

// TestSamples builds every sample: those with packages of RPM from the repository
// for tests, and Debian's as an archive, which takes no kernel.
func TestSamples(t *testing.T) {
	d := newDebian(t)
	repo, mirror := rpmMirror(t)
	blueprints, err := filepath.Glob("../samples/*.toml")
	if err != nil || len(blueprints) < 2 {
		t.Fatalf("samples: %v, %v", blueprints, err)
	}
	for _, path := range blueprints {
		t.Run(filepath.Base(path), func(t *testing.T) {
			args := []string{"compose", path, "--type", "tar", "-o", filepath.Join(d.dir, filepath.Base(path))}
			if strings.HasPrefix(filepath.Base(path), "fedora-") {
				args = append(args, "--mirror", mirror, "--keyring", filepath.Join(repo, "RPM-GPG-KEY-test"))
			}
			t.Log(d.run(t, d.store, args...))
		})
	}
	manifests, err := filepath.Glob("../samples/manifests/*.json")
	if err != nil || len(manifests) < 8 {
		t.Fatalf("samples: %v, %v", manifests, err)
	}
	for _, path := range manifests {
		t.Run(filepath.Base(path), func(t *testing.T) {
			pinned, err := exec.Command("../samples/manifests/pin", mirror+"/"+rpms.Releases+"/", path).Output()
			if err != nil {
				t.Fatal(err)
			}
			manifest := filepath.Join(t.TempDir(), "manifest.json")
			if err := os.WriteFile(manifest, pinned, 0o644); err != nil {
				t.Fatal(err)
			}
			if filepath.Base(path) == "error.json" {
				d.fails(t, "42", manifest)
				return
			}
			export := "assembler"
			if filepath.Base(path) == "base.json" {
				export = "tree"
			}
			t.Log(d.run(t, d.store, "--export", export, "--output-directory", filepath.Join(d.dir, filepath.Base(path)), manifest))
		})
	}
}
