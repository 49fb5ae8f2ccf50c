package mounts

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/ossify/ossify/module"
)

type ddiOptions struct {
	GrowFS      *bool  `json:"growfs"`
	ReadOnly    bool   `json:"read-only"`
	FSCK        *bool  `json:"fsck"`
	Discard     string `json:"discard"`
	ImagePolicy string `json:"image-policy"`
	ImageFilter string `json:"image-filter"`
}

// ddi mounts all filesystems of a discoverable disk image with systemd-dissect.
func ddi(ctx context.Context, call *module.MountCall, o ddiOptions) (string, func() error, error) {
	tool, err := module.LookTool("systemd-dissect")
	if err != nil {
		return "", nil, err
	}
	point, err := call.Point()
	if err != nil {
		return "", nil, err
	}
	argv := []string{"--mount", "--mkdir"}
	if o.GrowFS != nil && !*o.GrowFS {
		argv = append(argv, "--growfs", "no")
	}
	if o.ReadOnly {
		argv = append(argv, "--read-only")
	}
	if o.FSCK != nil && !*o.FSCK {
		argv = append(argv, "--fsck", "no")
	}
	for _, option := range []struct{ name, value string }{
		{"--discard", o.Discard}, {"--image-policy", o.ImagePolicy}, {"--image-filter", o.ImageFilter},
	} {
		if option.value != "" {
			argv = append(argv, option.name, option.value)
		}
	}
	if out, err := exec.CommandContext(ctx, tool, append(argv, call.Source, point)...).CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("mount %s at %s: systemd-dissect: %w: %s", call.Source, call.Target, err, strings.TrimSpace(string(out)))
	}
	release := func() error {
		// The service has to let go also after the engine has gone.
		if out, err := exec.Command(tool, "--umount", point).CombinedOutput(); err != nil {
			return fmt.Errorf("unmount %s: systemd-dissect: %w: %s", call.Target, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	return point, release, nil
}
