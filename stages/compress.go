package stages

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ossify/ossify/module"
)

// compressFile runs a program that reads the only file of the input "file",
// named as its last argument, and whose output becomes a file of the tree. That
// is written as writeFile does it.
func compressFile(ctx context.Context, args *module.Args, stage, filename, tool string, argv ...string) (err error) {
	source, err := onlyFile(args, "file")
	if err != nil {
		return err
	}
	target, err := treeTarget(args, filename)
	if err != nil {
		return err
	}
	cmd, err := hostCommand(ctx, args, stage, tool, append(argv, source)...)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write %q: %w", filename, err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := module.RunTool(cmd, out); err != nil {
		return fmt.Errorf("write %q: %w", filename, err)
	}
	return nil
}
