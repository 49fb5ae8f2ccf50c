package stages

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/ossify/ossify/module"
)

// rpmkeysImport imports each file of the input "keys" with the build root's
// rpmkeys.
func rpmkeysImport(ctx context.Context, args *module.Args, _ struct{}) error {
	keys, ok := args.Inputs["keys"]
	if !ok {
		return errors.New(`the stage has no input "keys": give it one with the files to import`)
	}
	for _, name := range slices.Sorted(maps.Keys(keys.Data.Files)) {
		cmd, err := hostCommand(ctx, args, "org.osbuild.rpmkeys.import", "rpmkeys",
			"--verbose", "--root", args.Tree, "--import", filepath.Join(keys.Path, name))
		if err != nil {
			return err
		}
		// Debian's rpm has its database in the home directory.
		cmd.Env = append(cmd.Env, "HOME=/root")
		if err := run(cmd); err != nil {
			return fmt.Errorf("import key %s: %w", name, err)
		}
	}
	return nil
}
