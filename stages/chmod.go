package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

type chmodOptions struct {
	Items ordered[struct {
		Mode      string `json:"mode"`
		Recursive bool   `json:"recursive"`
	}] `json:"items"`
}

// chmod changes modes with the build root's chmod, which knows symbolic modes.
func chmod(ctx context.Context, args *module.Args, options chmodOptions) error {
	if options.Items == nil {
		return errors.New(`options lack "items"`)
	}
	for _, item := range options.Items {
		path, err := treeTarget(args, filepath.Clean(item.name))
		if err != nil {
			return err
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("change mode of %s: it is not in the tree", item.name)
		}
		argv := []string{item.value.Mode}
		if item.value.Recursive {
			argv = append(argv, "--recursive")
		}
		cmd, err := hostCommand(ctx, args, "org.osbuild.chmod", "chmod", append(argv, "--", path)...)
		if err != nil {
			return err
		}
		if err := run(cmd); err != nil {
			return fmt.Errorf("change mode of %s: %w", item.name, err)
		}
	}
	return nil
}
