package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxArguments is how many file names one call of mmd or mcopy gets.
const maxArguments = 200

// writeVFAT makes the filesystem of c in a file of its own, image, and fills it
// with the tree's files and with extra, which maps paths in the filesystem to
// files of the same base name.
func (t *tool) writeVFAT(ctx context.Context, image string, c *content, extra map[string]string) error {
	if err := makeSparse(image, c.part.sizeBytes()); err != nil {
		return err
	}
	fs := c.part.Filesystem
	// --invariant first: it also sets an id, which -i then replaces.
	args := []string{"--invariant", "-i", strings.ReplaceAll(fs.UUID, "-", ""), "-h", fmt.Sprint(c.part.Start)}
	if fs.Label != "" {
		args = append(args, "-n", fs.Label)
	}
	if err := t.run(ctx, nil, nil, "mkfs.vfat", append(args, image)...); err != nil {
		return err
	}
	plan, err := planVFAT(c, extra)
	if err != nil {
		return err
	}
	return plan.copy(ctx, t, image, c)
}

// fatPlan is what goes into a vfat filesystem: directories in an order in
// which they can be made, and files by directory, sorted.
type fatPlan struct {
	dirs  []string            // absolute in the filesystem, without the root
	files map[string][]string // directory -> files of the build machine
}

func planVFAT(c *content, extra map[string]string) (*fatPlan, error) {
	plan := &fatPlan{files: map[string][]string{}}
	have := map[string]string{} // folded name -> name
	add := func(name string, dir bool, file string) error {
		folded := strings.ToUpper(name)
		if other, ok := have[folded]; ok {
			if dir && other == name {
				return nil
			}
			return fmt.Errorf("vfat cannot hold both %s and %s of %s: remove one in an earlier stage", other, name, c.part.Filesystem.Mountpoint)
		}
		have[folded] = name
		if dir {
			plan.dirs = append(plan.dirs, name)
		} else {
			plan.files[filepath.Dir(name)] = append(plan.files[filepath.Dir(name)], file)
		}
		return nil
	}
	hidden := map[string]bool{}
	for _, rel := range c.covered {
		hidden["/"+rel] = true
	}
	if c.source != "" {
		err := filepath.WalkDir(c.source, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(path, c.source)
			switch {
			case name == "":
				return nil
			case entry.IsDir():
				if err := add(name, true, ""); err != nil {
					return err
				}
				if hidden[name] {
					return fs.SkipDir
				}
				return nil
			case entry.Type().IsRegular():
				return add(name, false, path)
			}
			return fmt.Errorf("%s%s is a %s, which vfat cannot store: remove it in an earlier stage", c.part.Filesystem.Mountpoint, name, fileKind(entry.Type()))
		})
		if err != nil {
			return nil, err
		}
	}
	for _, rel := range c.created {
		if err := plan.addParents(rel+"/x", have, add); err != nil {
			return nil, err
		}
	}
	for _, name := range sortedKeys(extra) {
		if other, ok := have[strings.ToUpper(name)]; ok {
			return nil, fmt.Errorf("the tree has a %s of its own in %s: remove it, or do not ask for this boot loader", other, c.part.Filesystem.Mountpoint)
		}
		if err := plan.addParents(name, have, add); err != nil {
			return nil, err
		}
		// An existing directory may be spelled differently.
		dir := "/"
		if parent := filepath.Dir(name); parent != "/" {
			dir = have[strings.ToUpper(parent)]
		}
		if err := add(filepath.Join(dir, filepath.Base(name)), false, extra[name]); err != nil {
			return nil, err
		}
	}
	return plan, nil
}

// addParents adds the directories above name that are not there yet.
func (plan *fatPlan) addParents(name string, have map[string]string, add func(string, bool, string) error) error {
	parts := strings.Split(strings.Trim(filepath.Dir("/"+strings.Trim(name, "/")), "/"), "/")
	dir := ""
	for _, part := range parts {
		if part == "" {
			continue
		}
		dir += "/" + part
		if _, ok := have[strings.ToUpper(dir)]; ok {
			continue
		}
		if err := add(dir, true, ""); err != nil {
			return err
		}
	}
	return nil
}

func fileKind(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeSymlink != 0:
		return "symbolic link"
	case mode&fs.ModeDevice != 0:
		return "device"
	case mode&fs.ModeNamedPipe != 0:
		return "fifo"
	case mode&fs.ModeSocket != 0:
		return "socket"
	}
	return "special file"
}

func (plan *fatPlan) copy(ctx context.Context, t *tool, image string, c *content) error {
	env := []string{"MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null"}
	run := func(name string, options []string, names []string, target ...string) error {
		for len(names) > 0 {
			n := min(len(names), maxArguments)
			args := append(append([]string{"-i", image}, options...), names[:n]...)
			err := t.run(ctx, env, nil, name, append(args, target...)...)
			if saidAny(err, "Disk full", "No free cluster", "No space") {
				return c.tooLarge(err)
			}
			if err != nil {
				return err
			}
			names = names[n:]
		}
		return nil
	}
	var dirs []string
	for _, dir := range plan.dirs {
		dirs = append(dirs, "::"+dir)
	}
	if err := run("mmd", nil, dirs); err != nil {
		return err
	}
	for _, dir := range sortedKeys(plan.files) {
		target := "::" + strings.TrimSuffix(dir, "/") + "/"
		if err := run("mcopy", []string{"-Q", "-m"}, plan.files[dir], target); err != nil {
			return err
		}
	}
	return nil
}

// makeSparse makes a new file of that size, in bytes, without blocks.
func makeSparse(name string, size int64) (err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Truncate(size)
}
