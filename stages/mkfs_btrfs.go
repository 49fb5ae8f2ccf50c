package stages

import (
	"context"

	"github.com/ossify/ossify/module"
)

type mkfsBtrfsOptions struct {
	UUID     string `json:"uuid"`
	Label    string `json:"label"`
	Metadata string `json:"metadata"`
}

// mkfsBtrfs makes a btrfs filesystem on the device.
func mkfsBtrfs(ctx context.Context, args *module.Args, options mkfsBtrfsOptions) error {
	argv := []string{"-U", options.UUID}
	if options.Label != "" {
		argv = append(argv, "-L", options.Label)
	}
	if options.Metadata != "" {
		argv = append(argv, "-m", options.Metadata)
	}
	return formatDevice(ctx, args, "org.osbuild.mkfs.btrfs", "mkfs.btrfs", argv...)
}
