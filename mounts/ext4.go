package mounts

import (
	"context"

	"github.com/ossify/ossify/module"
)

type journalOptions struct {
	ReadOnly bool `json:"readonly"`
	// NoRecovery leaves the journal alone.
	NoRecovery bool `json:"norecovery"`
}

func (o *journalOptions) data() []string {
	if o.NoRecovery {
		return []string{"norecovery"}
	}
	return nil
}

// ext4 mounts a device's ext4 filesystem.
func ext4(_ context.Context, call *module.MountCall, o journalOptions) (string, func() error, error) {
	return filesystem("ext4", call, o.ReadOnly, o.data()...)
}
