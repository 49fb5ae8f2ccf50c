package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

type systemdOptions struct {
	EnabledServices  []string `json:"enabled_services"`
	DisabledServices []string `json:"disabled_services"`
	MaskedServices   []string `json:"masked_services"`
	MaskedGenerators []string `json:"masked_generators"`
	DefaultTarget    string   `json:"default_target"`
}

// systemd enables, disables and masks units, in this order, masks generators
// and sets the default target.
func systemd(ctx context.Context, args *module.Args, options systemdOptions) error {
	steps := []struct {
		verb  string
		units []string
	}{
		{"enable", options.EnabledServices},
		{"disable", options.DisabledServices},
		{"mask", options.MaskedServices},
	}
	for _, step := range steps {
		for _, unit := range step.units {
			if err := systemctl(ctx, args, step.verb, unit); err != nil {
				return err
			}
		}
	}
	for _, generator := range options.MaskedGenerators {
		if err := maskGenerator(args, generator); err != nil {
			return fmt.Errorf("mask generator %s: %w", generator, err)
		}
	}
	if options.DefaultTarget != "" {
		return systemctl(ctx, args, "set-default", options.DefaultTarget)
	}
	return nil
}

// systemctl runs the build root's systemctl on the tree, or the tree's own if
// the build root has none.
func systemctl(ctx context.Context, args *module.Args, verb, unit string) error {
	const stage = "org.osbuild.systemd"
	cmd, err := hostCommand(ctx, args, stage, "systemctl", "--root", args.Tree, verb, "--", unit)
	var missing *module.MissingTool
	if errors.As(err, &missing) {
		cmd, err = treeCommand(ctx, args, stage, "systemctl", "--root", "/", verb, "--", unit)
		if errors.As(err, &missing) {
			err = fmt.Errorf("%s: %w", stage, &module.MissingTool{Tool: "systemctl", Where: "the build root or the tree"})
		}
	}
	if err != nil {
		return err
	}
	// systemctl asks neither a manager nor the user.
	cmd.Env = append(cmd.Env, "SYSTEMD_OFFLINE=1", "SYSTEMD_PAGER=")
	if err := run(cmd); err != nil {
		return fmt.Errorf("%s %s: %w", verb, unit, err)
	}
	return nil
}

// maskGenerator links a generator to /dev/null, which systemctl cannot do.
func maskGenerator(args *module.Args, name string) error {
	dir, err := treeTarget(args, "/etc/systemd/system-generators")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entry, err := treeEntry(args, filepath.Join("/etc/systemd/system-generators", name))
	if err != nil {
		return err
	}
	return os.Symlink("/dev/null", entry)
}
