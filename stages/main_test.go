package stages

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.podman.io/storage/pkg/reexec"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"
)

// ownMounts marks the process that has a mount namespace of its own.
const ownMounts = "OSSIFY_STAGES_TEST_MOUNTS"

// TestMain gives the tests what a stage has in its sandbox: root, in a user
// namespace if an ordinary user started the tests, a private mount namespace,
// a /run to put its arguments in, and umask 022.
func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	unshare.MaybeReexecUsingUserNamespace(false)
	if os.Getenv(ownMounts) == "" {
		os.Exit(inOwnMounts())
	}
	unix.Umask(0o022)
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		fmt.Fprintln(os.Stderr, "mount a private /run:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// inOwnMounts runs the tests in a child and returns its exit status.
func inOwnMounts() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownMounts+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "run the tests with mounts of their own:", err)
	return 1
}
