package mounts

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/test/namespace"
	"github.com/ossify/ossify/test/schema"
)

// TestMain gives the tests mounts of their own, as the engine has them.
func TestMain(m *testing.M) { namespace.Main(m, func() error { return nil }) }

func TestSchemas(t *testing.T) { schema.Check(t, All, Schemas) }

// places are the folders of a stage: its tree and its mounts.
func places(t *testing.T) *module.MountCall {
	t.Helper()
	dir := t.TempDir()
	call := &module.MountCall{Root: filepath.Join(dir, "mounts"), Tree: filepath.Join(dir, "tree")}
	for _, path := range []string{filepath.Join(call.Root, "root/etc"), filepath.Join(call.Tree, "boot")} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(call.Root, "root/etc/file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	return call
}

func TestBind(t *testing.T) {
	for _, test := range []struct{ source, target, file, err string }{
		{source: "mount://root", target: "tree://boot", file: "boot/etc/file"},
		{source: "mount://", target: "tree://", file: "root/etc/file"},
		{source: "mount://root/etc", target: "tree://boot", err: "no path can follow the name"},
		{source: "input://x", target: "tree://boot", err: "must begin with tree:// or mount://"},
		{source: "mount://nowhere", target: "tree://boot", err: "no such file or directory"},
	} {
		call := places(t)
		call.Target = test.target
		path, release, err := bind(context.Background(), call, bindOptions{Source: test.source})
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: got %v, want %q", test.source, err, test.err)
			}
			continue
		}
		if err != nil || path != "" {
			t.Fatalf("%s: %q, %v", test.source, path, err)
		}
		file := filepath.Join(call.Tree, test.file)
		if data, err := os.ReadFile(file); err != nil || string(data) != "x" {
			t.Errorf("%s: %q, %v", test.source, data, err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s: it is still mounted", test.source)
		}
	}
}

func TestNoop(t *testing.T) {
	call := places(t)
	call.Target = "/a/b"
	path, _, err := noop(context.Background(), call, json.RawMessage("{}"))
	if want := filepath.Join(call.Root, "a/b"); err != nil || path != want {
		t.Errorf("got %q, %v, want %q", path, err, want)
	}
	// What a stage has put there leads nowhere else.
	if err := os.Symlink("/etc", filepath.Join(call.Root, "link")); err != nil {
		t.Fatal(err)
	}
	call.Target = "/link/x"
	path, _, err = noop(context.Background(), call, nil)
	if want := filepath.Join(call.Root, "etc/x"); err != nil || path != want {
		t.Errorf("through a link: got %q, %v, want %q", path, err, want)
	}
}

// TestRefused: without root the kernel mounts no filesystem of a device.
func TestRefused(t *testing.T) {
	call := places(t)
	call.Source, call.Target = filepath.Join(call.Tree, "no-device"), "/"
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		if _, _, err := filesystem(kind, call, false); err == nil || !strings.Contains(err.Error(), "mount "+kind) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
