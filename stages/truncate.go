package stages

import (
	"context"

	"github.com/ossify/ossify/module"
)

type truncateOptions struct {
	Filename string `json:"filename"`
	Size     string `json:"size"`
}

// truncate makes a file of that size, or gives one that size. What a size may be
// is up to truncate(1): +1K and %4096 are sizes too.
func truncate(ctx context.Context, args *module.Args, options truncateOptions) error {
	target, err := treeTarget(args, options.Filename)
	if err != nil {
		return err
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.truncate", "truncate", "--size", options.Size, target)
	if err != nil {
		return err
	}
	return run(cmd)
}
