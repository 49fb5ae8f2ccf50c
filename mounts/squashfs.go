package mounts

import (
	"context"
	"encoding/json"

	"github.com/ossify/ossify/module"
)

// squashfs mounts a device's squashfs, which nobody can write.
func squashfs(_ context.Context, call *module.MountCall, _ json.RawMessage) (string, func() error, error) {
	return filesystem("squashfs", call, true)
}
