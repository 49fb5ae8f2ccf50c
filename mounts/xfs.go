package mounts

import (
	"context"

	"github.com/ossify/ossify/module"
)

// xfs mounts a device's XFS filesystem.
func xfs(_ context.Context, call *module.MountCall, o journalOptions) (string, func() error, error) {
	return filesystem("xfs", call, o.ReadOnly, o.data()...)
}
