package stages

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/ossify/ossify/module"
)

type ignitionOptions struct {
	Network []string `json:"network"`
	Target  *string  `json:"target"`
}

// ignition writes the file at the sight of which GRUB has ignition run.
func ignition(_ context.Context, args *module.Args, options ignitionOptions) error {
	target := "tree:///boot"
	if options.Target != nil {
		target = *options.Target
	}
	place, err := parseLocation(args, target)
	if err != nil {
		return err
	}
	file, err := location{root: place.root, path: path.Join(place.path, "ignition.firstboot")}.target()
	if err != nil {
		return err
	}
	content := ""
	if len(options.Network) > 0 {
		content = "set ignition_network_kcmdline='" + strings.Join(options.Network, " ") + "'"
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		return fmt.Errorf("have ignition run: %w", err)
	}
	return nil
}
