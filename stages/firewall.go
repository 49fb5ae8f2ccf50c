package stages

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/ossify/ossify/module"
)

type firewallOptions struct {
	Ports            []string       `json:"ports"`
	EnabledServices  []string       `json:"enabled_services"`
	DisabledServices []string       `json:"disabled_services"`
	DefaultZone      string         `json:"default_zone"`
	Zones            []firewallZone `json:"zones"`
}

type firewallZone struct {
	Name    string   `json:"name"`
	Sources []string `json:"sources"`
}

// firewall has the tree's own firewall-offline-cmd set the default zone, then
// ports and services of it, then the sources of zones.
func firewall(ctx context.Context, args *module.Args, options firewallOptions) error {
	if options.DefaultZone != "" {
		if err := firewallCommand(ctx, args, "--set-default-zone="+options.DefaultZone); err != nil {
			return fmt.Errorf("set default zone %s: %w", options.DefaultZone, err)
		}
	}
	// These cannot stand beside the other options.
	argv := flags("--port", options.Ports)
	argv = append(argv, flags("--service", options.EnabledServices)...)
	argv = append(argv, flags("--remove-service", options.DisabledServices)...)
	if len(argv) > 0 {
		if err := firewallCommand(ctx, args, argv...); err != nil {
			return fmt.Errorf("set ports and services: %w", err)
		}
	}
	for _, zone := range options.Zones {
		if err := zone.set(ctx, args); err != nil {
			return fmt.Errorf("zone %s: %w", zone.Name, err)
		}
	}
	return nil
}

// set makes the zone if it does not exist and adds its sources.
func (z firewallZone) set(ctx context.Context, args *module.Args) error {
	// invalidZone is firewall-offline-cmd's status for a zone that does not exist.
	const invalidZone = 112
	err := firewallCommand(ctx, args, "--info-zone="+z.Name)
	var status *exec.ExitError
	if errors.As(err, &status) && status.ExitCode() == invalidZone {
		err = firewallCommand(ctx, args, "--new-zone="+z.Name)
	}
	if err != nil || len(z.Sources) == 0 {
		return err
	}
	return firewallCommand(ctx, args, append([]string{"--zone=" + z.Name}, flags("--add-source", z.Sources)...)...)
}

func firewallCommand(ctx context.Context, args *module.Args, argv ...string) error {
	return runMounted(ctx, args, "org.osbuild.firewall", "firewall-offline-cmd", argv...)
}

// flags repeats a flag for each of its values.
func flags(name string, values []string) []string {
	out := make([]string, len(values))
	for i, value := range values {
		out[i] = name + "=" + value
	}
	return out
}
