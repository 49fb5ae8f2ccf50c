package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/ossify/ossify/module"
)

type groupsOptions struct {
	Groups ordered[struct {
		GID int64 `json:"gid"`
	}] `json:"groups"`
	Force bool `json:"force"`
}

// groups adds groups with groupadd, in the manifest's order. Like osbuild it
// takes a gid of 0 for none.
func groups(ctx context.Context, args *module.Args, options groupsOptions) error {
	if options.Groups == nil {
		return errors.New(`options lack "groups"`)
	}
	for _, group := range options.Groups {
		var argv []string
		if group.value.GID != 0 {
			argv = append(argv, "--gid", fmt.Sprint(group.value.GID))
		}
		if options.Force {
			argv = append(argv, "--force")
		}
		cmd, err := accountCommand(ctx, args, "org.osbuild.groups", "groupadd", append(argv, group.name)...)
		if err != nil {
			return err
		}
		if err := run(cmd); err != nil {
			return fmt.Errorf("add group %s: %w", group.name, err)
		}
	}
	return nil
}
