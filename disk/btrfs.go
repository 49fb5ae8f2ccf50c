package disk

import (
	"context"
	"fmt"
	"os"
)

// btrfsMinimum is the size, in bytes, of the smallest filesystem that mkfs.btrfs
// makes.
const btrfsMinimum = 109 << 20

// writeBtrfs makes the filesystem of c in a file of its own, image, and fills it.
// scratch is an empty directory. The filesystem's root directory is root's and has
// mode 0755, whatever the tree's is.
func (t *tool) writeBtrfs(ctx context.Context, image string, c *content, scratch string) error {
	if len(c.created) > 0 {
		return fmt.Errorf("the tree has no directory for the mount points %v below %s: make them in an earlier stage (org.osbuild.mkdir)", c.created, c.part.Filesystem.Mountpoint)
	}
	if c.part.sizeBytes() < btrfsMinimum {
		return fmt.Errorf("the partition has %d bytes, btrfs needs %d at least: enlarge it, or use ext4", c.part.sizeBytes(), int64(btrfsMinimum))
	}
	if err := makeSparse(image, c.part.sizeBytes()); err != nil {
		return err
	}
	fs := c.part.Filesystem
	args := []string{"-q", "-U", fs.UUID}
	if fs.Label != "" {
		args = append(args, "-L", fs.Label)
	}
	if c.source != "" {
		args = append(args, "--rootdir", c.source)
	}
	err := withCovered(c.source, c.covered, scratch, func() error {
		return t.run(ctx, nil, nil, "mkfs.btrfs", append(args, image)...)
	})
	if saidAny(err, "No space left", "not enough free space") {
		return c.tooLarge(err)
	}
	if err != nil {
		return err
	}
	// mkfs.btrfs makes a file larger as it needs it.
	info, err := os.Stat(image)
	if err == nil && info.Size() > c.part.sizeBytes() {
		err = c.tooLarge(nil)
	}
	return err
}
