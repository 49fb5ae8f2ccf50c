package stages

import (
	"context"
	"fmt"
	"os"

	"github.com/ossify/ossify/module"
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
		if err := run(cmd); err != nil {
			return fmt.Errorf("copy %s to %s: %w", item.From, item.To, err)
		}
	}
	return nil
}
