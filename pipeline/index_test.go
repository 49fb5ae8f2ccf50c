package pipeline

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRunner looks for runners in a libdir without descriptions before one with.
func TestRunner(t *testing.T) {
	osbuild, native := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(osbuild, "runners/org.osbuild.fedora30"):           "",
		filepath.Join(osbuild, "runners/org.osbuild.fedora38"):           "",
		filepath.Join(osbuild, "runners/org.example.own"):                "",
		filepath.Join(native, "runners/org.osbuild.fedora38"):            "",
		filepath.Join(native, "runners/org.osbuild.fedora38.meta.json"):  `{"setup": "once"}`,
		filepath.Join(native, "runners/org.osbuild.debian"):              "",
		filepath.Join(native, "runners/org.osbuild.debian.meta.json"):    `{"setup": "once"}`,
		filepath.Join(native, "runners/org.osbuild.unclear12"):           "",
		filepath.Join(native, "runners/org.osbuild.unclear12.meta.json"): `{`,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ix, err := OpenIndex(osbuild, native)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, setup string }{
		{"org.osbuild.fedora41", filepath.Join(osbuild, "runners/org.osbuild.fedora38"), "once"},
		{"org.osbuild.fedora36", filepath.Join(osbuild, "runners/org.osbuild.fedora30"), "once"},
		{"org.osbuild.fedora29", "", ""},
		{"org.osbuild.debian12", filepath.Join(native, "runners/org.osbuild.debian"), "once"},
		{"org.example.own", filepath.Join(osbuild, "runners/org.example.own"), ""},
		{"org.osbuild.unclear12", "", ""},
	} {
		r, err := ix.Runner(c.name)
		if (err == nil) != (c.path != "") || err == nil && (r.Path != c.path || r.Meta.Setup != c.setup) {
			t.Errorf("%s: %+v, %v", c.name, r, err)
		}
	}
}
