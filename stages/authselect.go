package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/ossify/ossify/module"
)

type authselectOptions struct {
	Profile  *string  `json:"profile"`
	Features []string `json:"features"`
}

// authselect has the tree's own program select a profile. It makes no copies of
// the files that it replaces.
func authselect(ctx context.Context, args *module.Args, options authselectOptions) error {
	if options.Profile == nil {
		return errors.New(`options lack "profile"`)
	}
	argv := append([]string{"select", "--force", "--nobackup", *options.Profile}, options.Features...)
	cmd, err := treeCommand(ctx, args, "org.osbuild.authselect", "authselect", argv...)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return fmt.Errorf("select profile %s: %w", *options.Profile, err)
	}
	return nil
}
