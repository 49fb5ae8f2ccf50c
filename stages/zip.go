package stages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
)

type zipOptions struct {
	Filename string   `json:"filename"`
	Include  []string `json:"include"`
	Level    *int     `json:"level"`
}

// zipTree packs the input "tree", or what of it matches a pattern.
func zipTree(ctx context.Context, args *module.Args, options zipOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	source := args.Inputs["tree"].Path
	if source == "" {
		return errors.New(`the stage lacks the input "tree"`)
	}
	target, err := treeTarget(args, options.Filename)
	if err != nil {
		return err
	}
	if len(options.Include) == 0 {
		if err := linksStay(source); err != nil {
			return err
		}
	}
	level := 6
	if options.Level != nil {
		level = *options.Level
	}
	argv := []string{"-q", "-r", fmt.Sprintf("-%d", level), target, "."}
	if len(options.Include) > 0 {
		// Everything after -i is a pattern.
		argv = append(append(argv, "-i"), options.Include...)
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.zip", "zip", argv...)
	if err != nil {
		return err
	}
	cmd.Dir = source
	if err := run(cmd); err != nil {
		return fmt.Errorf("pack %q: %w", options.Filename, err)
	}
	return nil
}

// linksStay fails if a symbolic link leads out of the tree for a program that
// follows it from outside.
func linksStay(tree string) error {
	return filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type() != fs.ModeSymlink {
			return err
		}
		below := strings.TrimPrefix(path, tree)
		target, err := location{root: tree, path: below}.target()
		if err != nil {
			return err
		}
		if err := sameFile(path, target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("pack %s: %w: make it relative, or pack what is wanted with \"include\"", below, err)
		}
		return nil
	})
}
