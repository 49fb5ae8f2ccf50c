package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

type btrfsSubvolOptions struct {
	Subvolumes []struct {
		Name string `json:"name"`
	} `json:"subvolumes"`
}

// btrfsSubvol makes subvolumes of what is mounted at the root of the mounts, and
// the directories that lead to them (0755).
func btrfsSubvol(ctx context.Context, args *module.Args, options btrfsSubvolOptions) error {
	if options.Subvolumes == nil {
		return errors.New(`options lack "subvolumes"`)
	}
	for _, volume := range options.Subvolumes {
		path, err := location{root: args.Paths.Mounts, path: filepath.Clean("/" + volume.Name)}.entry()
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		cmd, err := hostCommand(ctx, args, "org.osbuild.btrfs.subvol", "btrfs", "subvolume", "create", path)
		if err != nil {
			return err
		}
		if err := run(cmd); err != nil {
			return fmt.Errorf("make subvolume %q: %w", volume.Name, err)
		}
	}
	return nil
}
