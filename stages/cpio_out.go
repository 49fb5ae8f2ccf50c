package stages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
)

type cpioOptions struct {
	Filename     string `json:"filename"`
	Append       bool   `json:"append"`
	Format       string `json:"format"`
	RootNode     string `json:"root-node"`
	Reproducible *bool  `json:"reproducible"`
	Owner        *struct {
		User  string `json:"user"`
		Group string `json:"group"`
	} `json:"owner"`
}

// cpioOut packs the input "tree". Members are sorted, which puts directories
// before what is in them, as the kernel wants to find them.
func cpioOut(ctx context.Context, args *module.Args, options cpioOptions) error {
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
	if err := refuseDevices(args.Inputs["tree"]); err != nil {
		return err
	}
	names, err := pathsBelow(source)
	if err != nil {
		return fmt.Errorf("list the tree to pack: %w", err)
	}
	if options.RootNode == "omit" {
		names = names[1:]
	}
	format := options.Format
	if format == "" {
		format = "newc"
	}
	argv := []string{"-v", "-o", "--format=" + format, "--null"}
	if options.Reproducible == nil || *options.Reproducible {
		argv = append(argv, "--reproducible")
	}
	if options.Append {
		argv = append(argv, "--append")
	}
	if owner := options.Owner; owner != nil && owner.Group != "" {
		argv = append(argv, "--owner="+owner.User+":"+owner.Group)
	} else if owner != nil {
		argv = append(argv, "--owner="+owner.User)
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.cpio.out", "cpio", append(argv, "-O", target, "-D", source)...)
	if err != nil {
		return err
	}
	cmd.Stdin = strings.NewReader(strings.Join(names, "\x00"))
	if err := run(cmd); err != nil {
		return fmt.Errorf("pack %q: %w", options.Filename, err)
	}
	return nil
}

// pathsBelow lists a directory with all below it, sorted; it is "." itself.
func pathsBelow(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		names = append(names, name)
		return err
	})
	return names, err
}

// refuseDevices fails if the input's side record has device nodes, for a program
// that takes them from the tree only. Labels are not kept by such formats.
func refuseDevices(tree module.Input) error {
	recorded, err := record.Open(tree.Record)
	if err != nil {
		return err
	}
	if devices := recorded.Devices(tree.Path); len(devices) > 0 {
		return fmt.Errorf("the tree has device nodes in its side record (%s), which cannot be packed in this format: remove them, or pack the tree with org.osbuild.tar", slices.Sorted(maps.Keys(devices))[0])
	}
	return nil
}
