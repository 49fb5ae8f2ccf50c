package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

// devicePath is where the stage finds the node of its device of that name.
func devicePath(args *module.Args, name string) (string, error) {
	raw, ok := args.Devices[name]
	if !ok {
		return "", fmt.Errorf("the stage lacks the device %q: name one in devices, such as an org.osbuild.loopback", name)
	}
	var device struct {
		Path string `json:"path"`
	}
	if err := json.Unmarshal(raw, &device); err != nil {
		return "", fmt.Errorf("device %q: %w", name, err)
	}
	if device.Path == "" {
		return "", fmt.Errorf("device %q has no node", name)
	}
	if filepath.IsAbs(device.Path) {
		return device.Path, nil
	}
	return filepath.Join(args.Paths.Devices, device.Path), nil
}

// deviceCommand makes a command of a program of the build root that takes names
// and labels of disks, which are UTF-8 whatever the locale is.
func deviceCommand(ctx context.Context, args *module.Args, stage, tool string, argv ...string) (*exec.Cmd, error) {
	cmd, err := hostCommand(ctx, args, stage, tool, argv...)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(cmd.Env, utf8Locale)
	return cmd, nil
}

// formatDevice runs a program of the build root whose last argument is the node
// of the stage's device "device".
func formatDevice(ctx context.Context, args *module.Args, stage, tool string, argv ...string) error {
	device, err := devicePath(args, "device")
	if err != nil {
		return err
	}
	cmd, err := deviceCommand(ctx, args, stage, tool, append(argv, device)...)
	if err != nil {
		return err
	}
	return run(cmd)
}
