package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
)

type lnOptions struct {
	Paths []struct {
		Target   string `json:"target"`
		LinkName string `json:"link_name"`
		Symbolic bool   `json:"symbolic"`
	} `json:"paths"`
}

// ln makes links in the tree or in mounts, never in the place of something.
func ln(_ context.Context, args *module.Args, options lnOptions) error {
	if options.Paths == nil {
		return errors.New(`options lack "paths"`)
	}
	for _, item := range options.Paths {
		place, err := parseLocation(args, item.LinkName)
		if err != nil {
			return err
		}
		name, err := place.entry()
		if err != nil {
			return err
		}
		if item.Symbolic {
			err = os.Symlink(item.Target, name)
		} else {
			err = hardLink(args, item.Target, name)
		}
		if err != nil {
			return fmt.Errorf("make link %s: %w", item.LinkName, err)
		}
	}
	return nil
}

// hardLink makes a second name of a file that target names as the stage sees
// it: below the directory of the tree or of the mounts.
func hardLink(args *module.Args, target, name string) error {
	target = filepath.Join("/", target)
	for _, root := range []string{args.Tree, args.Paths.Mounts} {
		below, ok := strings.CutPrefix(target, root+"/")
		if !ok {
			continue
		}
		entry, err := location{root: root, path: "/" + below}.entry()
		if err != nil {
			return err
		}
		return os.Link(entry, name)
	}
	return fmt.Errorf("target %s of a hard link is not in %s or %s: write its whole path there, or set \"symbolic\"",
		target, args.Tree, args.Paths.Mounts)
}
