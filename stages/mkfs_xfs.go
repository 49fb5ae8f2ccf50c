package stages

import (
	"context"
	"fmt"

	"github.com/ossify/ossify/module"
)

type mkfsXFSOptions struct {
	UUID    string `json:"uuid"`
	Label   string `json:"label"`
	AGCount int64  `json:"agcount"`
}

// mkfsXFS makes an XFS filesystem on the device.
func mkfsXFS(ctx context.Context, args *module.Args, options mkfsXFSOptions) error {
	argv := []string{"-m", "uuid=" + options.UUID}
	if options.Label != "" {
		argv = append(argv, "-L", options.Label)
	}
	if options.AGCount != 0 {
		argv = append(argv, "-d", fmt.Sprintf("agcount=%d", options.AGCount))
	}
	return formatDevice(ctx, args, "org.osbuild.mkfs.xfs", "mkfs.xfs", argv...)
}
