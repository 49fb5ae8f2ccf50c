package stages

import (
	"context"
	"fmt"
	"strconv"

	"github.com/ossify/ossify/module"
)

type wslConfOptions struct {
	Boot *struct {
		Systemd bool `json:"systemd"`
	} `json:"boot"`
}

// wslConf changes /etc/wsl.conf, or makes it.
func wslConf(_ context.Context, args *module.Args, options wslConfOptions) error {
	if options.Boot == nil {
		return nil
	}
	const path = "/etc/wsl.conf"
	file, err := openINI(args, path)
	if err != nil {
		return fmt.Errorf("configure WSL: %w", err)
	}
	file.AddSection("boot")
	if err := file.Set("boot", "systemd", strconv.FormatBool(options.Boot.Systemd)); err != nil {
		return fmt.Errorf("configure WSL: %w", err)
	}
	if err := writeFile(args, path, file.String()); err != nil {
		return fmt.Errorf("configure WSL: %w", err)
	}
	return nil
}
