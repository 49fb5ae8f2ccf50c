package module

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestMissingTool(t *testing.T) {
	tests := []struct{ tool, want string }{
		{"mke2fs", "mke2fs is not in the tree: install package e2fsprogs (Debian and Fedora)"},
		{"useradd", "useradd is not in the tree: install package passwd (Debian) or shadow-utils (Fedora)"},
		{"grub-mkimage", "grub-mkimage is not in the tree: install package grub-common (Debian)"},
		{"grub2-mkimage", "grub2-mkimage is not in the tree: install package grub2-tools (Fedora)"},
		{"frobnicate", "frobnicate is not in the tree: install the package that holds it"},
	}
	for _, test := range tests {
		err := &MissingTool{Tool: test.tool, Where: "the tree"}
		if got := err.Error(); got != test.want {
			t.Errorf("%s: got %q, want %q", test.tool, got, test.want)
		}
	}
}

func TestLookTool(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	tool := filepath.Join(dir, "frobnicate")
	if err := os.WriteFile(tool, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := LookTool("frobnicate"); got != tool || err != nil {
		t.Errorf("tool in PATH: got %q, %v; want %q", got, err, tool)
	}
	if got, err := LookTool("chmod"); err != nil || !filepath.IsAbs(got) {
		t.Errorf("tool outside PATH: got %q, %v; want an absolute path", got, err)
	}
	var missing *MissingTool
	if _, err := LookTool("no-such-tool"); !errors.As(err, &missing) {
		t.Errorf("missing tool: got %v, want a *MissingTool", err)
	}
}

func TestLookToolIn(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"sbin": "/usr/bin", "usr/bin/linked": "/usr/bin/real", "usr/bin/stray": "/gone"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"real": 0o755, "text": 0o644} {
		if err := os.WriteFile(filepath.Join(root, "usr/bin", name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for tool, want := range map[string]string{"real": "/usr/bin/real", "linked": "/usr/bin/linked", "stray": "", "text": "", "none": ""} {
		got, err := LookToolIn(root, tool)
		var missing *MissingTool
		if got != want || errors.As(err, &missing) != (want == "") {
			t.Errorf("%s: got %q, %v; want %q", tool, got, err, want)
		}
	}
}
