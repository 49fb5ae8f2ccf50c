package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/ossify/ossify/module"
)

type squashfsOptions struct {
	Filename     string   `json:"filename"`
	Source       string   `json:"source"`
	ExcludePaths []string `json:"exclude_paths"`
	Compression  *struct {
		Method  string          `json:"method"`
		Options ordered[string] `json:"options"`
	} `json:"compression"`
}

// squashfs makes a squashfs of the input "tree" or of another source. An image
// that is there gets the files added.
func squashfs(ctx context.Context, args *module.Args, options squashfsOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	source, err := imageSource(args, options.Source)
	if err != nil {
		return err
	}
	target, err := treeTarget(args, options.Filename)
	if err != nil {
		return err
	}
	argv := []string{source, target}
	if c := options.Compression; c != nil {
		argv = append(argv, "-comp", c.Method)
		for _, option := range c.Options {
			argv = append(argv, "-X"+option.name, option.value)
		}
	}
	if len(options.ExcludePaths) > 0 {
		// Everything after -e is a path.
		argv = append(append(argv, "-regex", "-e"), options.ExcludePaths...)
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.squashfs", "mksquashfs", argv...)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return fmt.Errorf("make %q: %w", options.Filename, err)
	}
	return nil
}

// imageSource returns the directory that a read-only filesystem is made of: a
// location, or the input "tree".
func imageSource(args *module.Args, source string) (string, error) {
	if source == "" {
		if path := args.Inputs["tree"].Path; path != "" {
			return path, nil
		}
		return "", errors.New(`the stage lacks the input "tree"`)
	}
	place, err := parseLocation(args, source)
	if err != nil {
		return "", err
	}
	return place.target()
}
