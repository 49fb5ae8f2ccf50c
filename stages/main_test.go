//go:build !osbuild

package stages

import (
	"fmt"
	"testing"

	"github.com/ossify/ossify/test/namespace"
	"golang.org/x/sys/unix"
)

// TestMain gives the tests what a stage has in its sandbox, a /run to put its
// arguments in, and umask 022.
func TestMain(m *testing.M) {
	namespace.Main(m, func() error {
		unix.Umask(0o022)
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount a private /run: %w", err)
		}
		return nil
	})
}

// realLabels: a machine with SELinux labels every file; what counts is in records.
const realLabels = false

// caseDir returns an empty directory for the trees of a case.
func caseDir(t *testing.T) string {
	t.Helper()
	return t.TempDir()
}
