package disk

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/ossify/ossify/pattern"
)

// mkfs.xfs copies a directory into the new filesystem from 6.17 on; before,
// -p took only a description of one.
const (
	xfsMajor = 6
	xfsMinor = 17
)

var xfsVersion = pattern.New(`version (\d+)\.(\d+)`)

// writeXFS makes the filesystem of c in a file of its own, image, and fills it.
// scratch is an empty directory.
func (t *tool) writeXFS(ctx context.Context, image string, c *content, scratch string) error {
	var said bytes.Buffer
	if err := t.run(ctx, nil, &said, "mkfs.xfs", "-V"); err != nil {
		return err
	}
	found := xfsVersion().FindStringSubmatch(said.String())
	if found == nil {
		return fmt.Errorf("cannot read the version of mkfs.xfs from %q", said.String())
	}
	major, _ := strconv.Atoi(found[1])
	minor, _ := strconv.Atoi(found[2])
	if major < xfsMajor || major == xfsMajor && minor < xfsMinor {
		return &oldXFS{major, minor, c.part.Filesystem.Mountpoint}
	}
	if len(c.created) > 0 {
		return fmt.Errorf("the tree has no directory for the mount points %v below %s: make them in an earlier stage (org.osbuild.mkdir)", c.created, c.part.Filesystem.Mountpoint)
	}
	if err := makeSparse(image, c.part.sizeBytes()); err != nil {
		return err
	}
	fs := c.part.Filesystem
	args := []string{"-q", "-f", "-K", "-m", "uuid=" + fs.UUID}
	if fs.Label != "" {
		args = append(args, "-L", fs.Label)
	}
	if c.source != "" {
		args = append(args, "-p", c.source)
	}
	return withCovered(c.source, c.covered, scratch, func() error {
		err := t.run(ctx, []string{"DETERMINISTIC_SEED=1"}, nil, "mkfs.xfs", append(args, image)...)
		if saidAny(err, "No space left", "cannot allocate space") {
			return c.tooLarge(err)
		}
		return err
	})
}

// oldXFS is the error of a mkfs.xfs that cannot fill a filesystem.
type oldXFS struct {
	major, minor int
	mountpoint   string
}

func (e *oldXFS) Error() string {
	return fmt.Sprintf("the build root's mkfs.xfs %d.%d cannot fill a filesystem from a directory, %d.%d or later can: use a build root with newer xfsprogs, ext4 for %s, or the helper ossify-loop (sudo make install-helper)",
		e.major, e.minor, xfsMajor, xfsMinor, e.mountpoint)
}
