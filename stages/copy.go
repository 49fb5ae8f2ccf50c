package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
)

type copyOptions struct {
	Paths []struct {
		From              string `json:"from"`
		To                string `json:"to"`
		RemoveDestination bool   `json:"remove_destination"`
	} `json:"paths"`
}

// copyPaths copies from inputs, mounts and the tree to mounts and the tree
// with everything that cp -a keeps. A source that ends in a slash stands for
// the contents of that directory.
func copyPaths(ctx context.Context, args *module.Args, options copyOptions) error {
	if options.Paths == nil {
		return errors.New(`options lack "paths"`)
	}
	marks, err := openMarks(args)
	if err != nil {
		return err
	}
	for _, item := range options.Paths {
		from, err := parseLocation(args, item.From)
		if err != nil {
			return err
		}
		to, err := parseLocation(args, item.To)
		if err != nil {
			return err
		}
		source, err := from.entry()
		if err != nil {
			return err
		}
		target, err := to.entry()
		if err != nil {
			return err
		}
		argv := []string{"-a", "--reflink=auto"}
		if item.RemoveDestination {
			argv = append(argv, "--remove-destination")
		} else if leads, err := to.target(); err == nil && !to.contents {
			// cp writes through a link, which must not lead out of the tree.
			if _, err := os.Stat(leads); err == nil {
				target = leads
			}
		}
		cmd, err := hostCommand(ctx, args, "org.osbuild.copy", "cp", append(argv, "--", source, target)...)
		if err != nil {
			return err
		}
		fmt.Printf("copying '%s' -> '%s'\n", source, target)
		copied := target
		if info, err := os.Stat(target); err == nil && info.IsDir() && !from.contents {
			copied = filepath.Join(target, filepath.Base(source))
		}
		if err := run(cmd); err != nil {
			return fmt.Errorf("copy %s to %s: %w", item.From, item.To, err)
		}
		if err := copyMarks(args, marks, from, filepath.Clean(source), filepath.Clean(copied)); err != nil {
			return fmt.Errorf("copy SELinux labels and devices of %s to %s: %w", item.From, item.To, err)
		}
	}
	return marks.save()
}

// copyMarks gives a copy what the side record has of its source, but for inode
// flags: cp does not copy these either.
func copyMarks(args *module.Args, marks *marks, from location, source, target string) error {
	recorded := marks.record
	if from.root != args.Tree {
		name := ""
		for _, input := range args.Inputs {
			if input.Path == from.root {
				name = input.Record
			}
		}
		var err error
		if recorded, err = record.Open(name); err != nil {
			return err
		}
	}
	if len(recorded) == 0 {
		return nil
	}
	below, err := filepath.Rel(from.root, source)
	if err != nil {
		return err
	}
	devices := recorded.Devices(from.root)
	for name, e := range recorded.Below(path.Join("/", below)) {
		file := filepath.Join(target, name)
		if device, ok := devices[path.Join("/", below, name)]; ok {
			if err := marks.device(file, device); err != nil {
				return err
			}
		} else if _, err := os.Lstat(file); err != nil {
			continue // an entry of what is not there
		}
		if e.Label != "" {
			if err := marks.label(file, e.Label); err != nil {
				return err
			}
		}
	}
	return nil
}
