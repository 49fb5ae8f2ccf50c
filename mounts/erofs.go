package mounts

import (
	"context"
	"encoding/json"

	"github.com/ossify/ossify/module"
)

// erofs mounts a device's EROFS filesystem, which nobody can write.
func erofs(_ context.Context, call *module.MountCall, _ json.RawMessage) (string, func() error, error) {
	return filesystem("erofs", call, true)
}
