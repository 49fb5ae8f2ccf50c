package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type waagentConfOptions struct {
	Config map[string]bool `json:"config"`
}

// waagentConf changes settings in /etc/waagent.conf; those that have no line
// are added in the order here, whatever the manifest's is.
func waagentConf(_ context.Context, args *module.Args, options waagentConfOptions) error {
	const path = "/etc/waagent.conf"
	text, err := readText(args, path)
	if err != nil {
		return fmt.Errorf("configure waagent: %w", err)
	}
	var settings []lineSetting
	for _, name := range []string{
		"Provisioning.UseCloudInit", "Provisioning.Enabled", "ResourceDisk.Format", "ResourceDisk.EnableSwap",
	} {
		if on, ok := options.Config[name]; ok {
			settings = append(settings, lineSetting{name, map[bool]string{true: "y", false: "n"}[on]})
		}
	}
	if err := rewriteInPlace(args, path, setLines(text, "=", settings, strings.EqualFold)); err != nil {
		return fmt.Errorf("configure waagent: %w", err)
	}
	return nil
}
