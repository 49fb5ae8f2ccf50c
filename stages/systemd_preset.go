package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type presetOptions struct {
	Presets []struct {
		Name  string `json:"name"`
		State string `json:"state"`
	} `json:"presets"`
}

// systemdPreset writes a preset file that enables or disables units.
func systemdPreset(_ context.Context, args *module.Args, options presetOptions) error {
	if len(options.Presets) == 0 {
		return nil
	}
	var out strings.Builder
	seen := map[string]bool{}
	for _, preset := range options.Presets {
		if seen[preset.Name] {
			return fmt.Errorf("unit %q has several states: give it one", preset.Name)
		}
		seen[preset.Name] = true
		fmt.Fprintf(&out, "%s %s\n", preset.State, preset.Name)
	}
	if err := writeFile(args, "/usr/lib/systemd/system-preset/50-osbuild.preset", out.String()); err != nil {
		return fmt.Errorf("write preset: %w", err)
	}
	return nil
}
