package mounts

import (
	"context"
	"encoding/json"

	"github.com/ossify/ossify/module"
)

// noop only makes a folder.
func noop(_ context.Context, call *module.MountCall, _ json.RawMessage) (string, func() error, error) {
	point, err := call.Point()
	return point, nil, err
}
