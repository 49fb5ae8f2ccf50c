package stages

import (
	"context"

	"github.com/ossify/ossify/module"
)

type mkswapOptions struct {
	UUID  string `json:"uuid"`
	Label string `json:"label"`
}

// mkswap makes a swap area of the device.
func mkswap(ctx context.Context, args *module.Args, options mkswapOptions) error {
	argv := []string{"--uuid", options.UUID}
	if options.Label != "" {
		argv = append(argv, "--label", options.Label)
	}
	return formatDevice(ctx, args, "org.osbuild.mkswap", "mkswap", argv...)
}
