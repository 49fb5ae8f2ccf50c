package stages

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// buildRoot makes the files that the case's build root has beside those of this
// machine: its part "buildroot", and stand-ins with an absolute path.
func (t *trees) buildRoot(c *caseFile) error {
	root := filepath.Join(t.dir, "buildroot")
	lines, err := c.treeLines("buildroot")
	if err != nil {
		return err
	}
	for _, line := range lines {
		if err := line.place(filepath.Join(root, line.path), filepath.Join(root, line.target)); err != nil {
			return fmt.Errorf("buildroot: %s: %w", line, err)
		}
	}
	for i := len(lines) - 1; i >= 0; i-- {
		if lines[i].mtime < 0 {
			continue
		}
		if err := lines[i].setTime(filepath.Join(root, lines[i].path)); err != nil {
			return fmt.Errorf("buildroot: %s: %w", lines[i], err)
		}
	}
	for _, part := range c.parts {
		path, ok := strings.CutPrefix(part.name, "standin /")
		if !ok {
			continue
		}
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join(t.dir, "bin", filepath.Base(path)), filepath.Join(root, path)); err != nil {
			return err
		}
	}
	return nil
}

// layBuildRoot lays these files over the ones of this machine until release is
// called; release is never nil.
func (t *trees) layBuildRoot() (release func() error, err error) {
	root := filepath.Join(t.dir, "buildroot")
	var laid []string
	release = func() error {
		var errs []error
		for _, path := range laid {
			errs = append(errs, unix.Unmount(path, unix.MNT_DETACH))
		}
		return errors.Join(errs...)
	}
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return release, err
	}
	for _, entry := range entries {
		path := "/" + entry.Name()
		lower := filepath.Join(root, path) + ":" + path
		if err := unix.Mount("overlay", path, "overlay", unix.MS_RDONLY, "lowerdir="+lower); err != nil {
			return release, fmt.Errorf("lay files over %s: %w", path, err)
		}
		laid = append(laid, path)
	}
	return release, nil
}
