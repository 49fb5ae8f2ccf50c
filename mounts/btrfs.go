package mounts

import (
	"context"

	"github.com/ossify/ossify/module"
)

type btrfsOptions struct {
	journalOptions
	Subvol   string `json:"subvol"`
	Compress string `json:"compress"`
}

// btrfs mounts a device's btrfs filesystem, or a subvolume of it.
func btrfs(_ context.Context, call *module.MountCall, o btrfsOptions) (string, func() error, error) {
	data := o.data()
	if o.Subvol != "" {
		data = append(data, "subvol="+o.Subvol)
	}
	if o.Compress != "" {
		data = append(data, "compress="+o.Compress)
	}
	return filesystem("btrfs", call, o.ReadOnly, data...)
}
