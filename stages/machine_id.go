package stages

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ossify/ossify/module"
)

type machineIDOptions struct {
	FirstBoot string `json:"first-boot"`
}

// machineID decides what systemd makes of the first boot: "uninitialized"
// (since systemd 247) makes it a first boot, an empty file only makes a new id.
func machineID(_ context.Context, args *module.Args, options machineIDOptions) error {
	path, err := treeTarget(args, "/etc/machine-id")
	if err != nil {
		return err
	}
	switch options.FirstBoot {
	case "yes":
		err = os.WriteFile(path, []byte("uninitialized\n"), 0o644)
	case "no":
		err = os.WriteFile(path, nil, 0o644)
	case "preserve":
		info, statErr := os.Stat(path)
		if statErr != nil || !info.Mode().IsRegular() {
			return errors.New("cannot preserve /etc/machine-id: it is not a file in the tree")
		}
	default:
		return errors.New(`options lack "first-boot"`)
	}
	if err != nil {
		return fmt.Errorf("write machine id: %w", err)
	}
	return nil
}
