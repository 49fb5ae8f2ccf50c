//go:build !osbuild

package assemblers

import (
	"fmt"
	"testing"

	"github.com/ossify/ossify/test/namespace"
	"golang.org/x/sys/unix"
)

// TestMain gives the tests what an assembler has in its sandbox: root, in a user
// namespace, a /run to put its arguments in, and umask 022.
func TestMain(m *testing.M) {
	namespace.Main(m, func() error {
		unix.Umask(0o022)
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount a private /run: %w", err)
		}
		return nil
	})
}
