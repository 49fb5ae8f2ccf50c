package disk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

// How filesystems other than FAT are written.
const (
	// Offline writers need nothing but programs.
	Offline = ""
	// Mounted ones are the kernel's, which the engine mounts.
	Mounted = "mounted"
	// Auto is mounted where the programs cannot do it.
	Auto = "auto"
)

// writeMounted has the engine make the filesystem of c and fills it by its mount.
func (b *builder) writeMounted(ctx context.Context, image string, c *content, scratch string) (err error) {
	for name, e := range c.record {
		if e.Device.Kind != 0 {
			return fmt.Errorf("%s is a device node, which cannot be made in a mounted filesystem without root: write the disk offline", name)
		}
	}
	if err := makeSparse(image, c.part.sizeBytes()); err != nil {
		return err
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fs := c.part.Filesystem
	request := module.Filesystem{Type: fs.Type, UUID: fs.UUID, Label: fs.Label, Size: c.part.sizeBytes()}
	return module.MakeFilesystem(ctx, request, c.record, func(dir string) error {
		err := withCovered(c.source, c.covered, scratch, func() error {
			if c.source == "" {
				return nil
			}
			return b.run(ctx, nil, nil, "cp", "--archive", "--no-target-directory", c.source, dir)
		})
		if saidAny(err, "No space left") {
			return c.tooLarge(err)
		}
		for _, name := range c.created {
			if err == nil {
				err = os.MkdirAll(filepath.Join(dir, name), 0o755)
			}
		}
		return err
	}, f)
}
