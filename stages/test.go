package stages

import (
	"context"
	"fmt"
	"os"

	"github.com/ossify/ossify/module"
)

type testOptions struct {
	Script string `json:"script"`
}

// bootTest is a unit that runs a program at boot, sends its output to the
// first virtio port and switches the machine off. The empty first line is
// osbuild's.
const bootTest = `
[Unit]
Description=Boot Test
Wants=dev-vport0p1.device
After=dev-vport0p1.device

[Service]
StandardOutput=file:/dev/vport0p1
ExecStart=%s
ExecStopPost=/usr/bin/systemctl poweroff
`

// bootTestStage makes and enables osbuild-test.service.
func bootTestStage(_ context.Context, args *module.Args, options testOptions) error {
	unit, err := treeTarget(args, "/etc/systemd/system/osbuild-test.service")
	if err != nil {
		return err
	}
	if err := os.WriteFile(unit, fmt.Appendf(nil, bootTest, options.Script), 0o644); err != nil {
		return fmt.Errorf("write boot test: %w", err)
	}
	wants, err := treeEntry(args, "/etc/systemd/system/multi-user.target.wants/osbuild-test.service")
	if err != nil {
		return err
	}
	if err := os.Symlink("../osbuild-test.service", wants); err != nil {
		return fmt.Errorf("enable boot test: %w", err)
	}
	return nil
}
