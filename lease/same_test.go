package lease

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSameUUID has two users' filesystems with one uuid mounted at a time, as builds of one
// manifest have them. Nobody gets the other's; btrfs before Linux 6.7 refuses the second.
func TestSameUUID(t *testing.T) {
	h := newHelper(t)
	for _, kind := range kinds() {
		t.Run(kind.String(), func(t *testing.T) {
			h.t = t
			first := h.launch(alice, true, "same", fmt.Sprint("KIND=", int(kind)))
			if line := first.line(); line != "mounted" {
				t.Fatal(line)
			}
			second := h.launch(bob, true, "same", fmt.Sprint("KIND=", int(kind)))
			if line := second.line(); line != "mounted" && line != "refused" {
				t.Error(line)
			}
			second.end()
			first.end()
		})
	}
	h.t = t
}

func sameClient() error {
	c, dir, err := mounted(kindOf(os.Getenv("KIND")), MountOptions{})
	if errors.Is(err, unix.EEXIST) && kindOf(os.Getenv("KIND")).String() == "btrfs" {
		pause("refused")
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, me().name), nil, 0o600); err != nil {
		return err
	}
	pause("mounted")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != me().name && e.Name() != "lost+found" {
			return fmt.Errorf("%s sees %s", me().name, e.Name())
		}
	}
	return c.Close()
}
