// Package mounts holds Ossify's native mounts: one file each, its schema beside it,
// one line each in the table below.
package mounts

import (
	"embed"

	"github.com/ossify/ossify/module"
)

// Schemas holds NAME.meta.json of every native module of this family.
//
//go:embed *.meta.json
var Schemas embed.FS

// All lists the native mounts, sorted by name.
var All = []module.Module{
	module.MountModule("org.osbuild.bind", bind),
	module.MountModule("org.osbuild.btrfs", btrfs),
	module.MountModule("org.osbuild.ddi", ddi),
	module.MountModule("org.osbuild.erofs", erofs),
	module.MountModule("org.osbuild.ext4", ext4),
	module.MountModule("org.osbuild.fat", fat),
	module.MountModule("org.osbuild.noop", noop),
	module.MountModule("org.osbuild.squashfs", squashfs),
	module.MountModule("org.osbuild.xfs", xfs),
}
