//go:build osbuild

package assemblers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// TestMain starts the tests once more in a mount namespace of their own, with a
// /run to put arguments in. They stay root of this machine.
func TestMain(m *testing.M) {
	if err := enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func enter() error {
	if os.Geteuid() != 0 {
		return errors.New("osbuild's assemblers run as root only")
	}
	unix.Umask(0o022)
	if os.Getenv("OSSIFY_TEST_NAMESPACE") != "" {
		return unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	argv := append([]string{unshare, "--mount", "--propagation", "private", os.Args[0]}, os.Args[1:]...)
	return unix.Exec(unshare, argv, append(os.Environ(), "OSSIFY_TEST_NAMESPACE=1"))
}

// TestOsbuild runs every case of the assemblers that pack the tree by osbuild's
// Python module of the same name, in the checkout OSBUILD, and wants what ours
// makes, but for cases that say why they differ: those have to.
func TestOsbuild(t *testing.T) {
	checkout := os.Getenv("OSBUILD")
	if !filepath.IsAbs(checkout) {
		t.Fatal("OSBUILD is not the absolute path of a checkout of osbuild")
	}
	archiveCases(t, func(t *testing.T, m module.Module, c *archiveCase) {
		output := t.TempDir()
		args := c.arguments(t, output)
		if c.Missing != "" {
			hideTool(t, c.Missing)
		}
		theirs := ""
		err := runModule(osbuildModule(checkout, m.Name), args)
		if err == nil && c.Error == "" {
			theirs = c.show(t, output)
		}
		equal := (err != nil) == (c.Error != "") && theirs == c.shown()
		if equal != (c.Differs == "") {
			t.Errorf("it is said to differ: %q; osbuild ends with %v and makes\n%s\nours makes\n%s", c.Differs, err, theirs, c.shown())
		}
	})
}

// osbuildModule is osbuild's Python module.
func osbuildModule(checkout, name string) module.Module {
	return module.Module{Name: name, Main: func(_ context.Context, _ []string) error {
		cmd := exec.Command("/usr/bin/python3", "-B", filepath.Join(checkout, "assemblers", name))
		cmd.Env = append(os.Environ(), "PYTHONPATH="+checkout)
		cmd.Dir = "/"
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}}
}
