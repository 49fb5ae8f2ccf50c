package assemblers

import (
	"context"

	"github.com/ossify/ossify/disk"
	"github.com/ossify/ossify/module"
)

type rawfsOptions struct {
	Filename   string `json:"filename"`
	RootFSUUID string `json:"root_fs_uuid"`
	Size       int64  `json:"size"`
	FSType     string `json:"fs_type"`
}

// rawfs writes the input "tree" as an image of one filesystem into the tree.
func rawfs(ctx context.Context, args *module.Args, options rawfsOptions) error {
	spec, err := newSpec(args, options.Filename)
	if err != nil {
		return err
	}
	root := &disk.Filesystem{Type: options.FSType, UUID: options.RootFSUUID, Mountpoint: "/"}
	if root.Type == "" {
		root.Type = "ext4"
	}
	spec.Layout = disk.Layout{TableType: disk.None, Size: options.Size, Partitions: []disk.Partition{{Filesystem: root}}}
	spec.Format.Name = "raw"
	return disk.Write(ctx, *spec)
}
