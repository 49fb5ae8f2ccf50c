package inputs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ossify/ossify/module"
	"go.podman.io/storage/pkg/reexec"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"
)

const (
	// ownMounts marks the process that has a mount namespace of its own.
	ownMounts = "OSSIFY_INPUTS_TEST_MOUNTS"
	// program carries the path of the test's program, which runs from memory
	// in a user namespace.
	program = "OSSIFY_INPUTS_TEST_PROGRAM"
)

// TestMain lets the test's program be an input, as ossify's own is, and gives
// the tests what an input has in the engine: root, in a user namespace if an
// ordinary user started the tests, and a private mount namespace.
func TestMain(m *testing.M) {
	if input, ok := module.Find(All, filepath.Base(os.Args[0])); ok {
		if err := input.Main(context.Background(), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if reexec.Init() {
		return
	}
	if os.Getenv(program) == "" {
		self, err := os.Executable()
		if err == nil {
			err = os.Setenv(program, self)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	unshare.MaybeReexecUsingUserNamespace(false)
	if os.Getenv(ownMounts) == "" {
		os.Exit(inOwnMounts())
	}
	unix.Umask(0o022)
	os.Exit(m.Run())
}

// inOwnMounts runs the tests in a child and returns its exit status.
func inOwnMounts() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownMounts+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "run the tests with mounts of their own:", err)
		return 1
	}
	return 0
}
