package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/ossify/ossify/module"
)

type wslDistributionConfOptions struct {
	OOBE     wslFirstStart `json:"oobe"`
	Shortcut wslShortcut   `json:"shortcut"`
}

type wslFirstStart struct {
	DefaultUID  *json.Number `json:"default_uid"`
	DefaultName *string      `json:"default_name"`
}

type wslShortcut struct {
	Enabled *bool   `json:"enabled"`
	Icon    *string `json:"icon"`
}

// wslDistributionConf changes /etc/wsl-distribution.conf, or makes it.
func wslDistributionConf(_ context.Context, args *module.Args, options wslDistributionConfOptions) error {
	var settings [][3]string
	if uid := options.OOBE.DefaultUID; uid != nil {
		settings = append(settings, [3]string{"oobe", "defaultUid", pythonNumber(*uid)})
	}
	if name := options.OOBE.DefaultName; name != nil {
		settings = append(settings, [3]string{"oobe", "defaultName", *name})
	}
	if enabled := options.Shortcut.Enabled; enabled != nil {
		settings = append(settings, [3]string{"shortcut", "enabled", strconv.FormatBool(*enabled)})
	}
	if icon := options.Shortcut.Icon; icon != nil {
		settings = append(settings, [3]string{"shortcut", "icon", *icon})
	}
	if len(settings) == 0 {
		return nil
	}
	const path = "/etc/wsl-distribution.conf"
	file, err := openINI(args, path)
	if err != nil {
		return fmt.Errorf("describe the distribution to WSL: %w", err)
	}
	for _, s := range settings {
		file.AddSection(s[0])
		if err := file.Set(s[0], s[1], s[2]); err != nil {
			return fmt.Errorf("describe the distribution to WSL: %w", err)
		}
	}
	if err := writeFile(args, path, file.String()); err != nil {
		return fmt.Errorf("describe the distribution to WSL: %w", err)
	}
	return nil
}
