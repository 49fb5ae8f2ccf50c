// Package inputs holds Ossify's native inputs: one file each, its schema beside it,
// one line each in the table below.
package inputs

import (
	"embed"

	"github.com/ossify/ossify/module"
)

// Schemas holds NAME.meta.json of every native module of this family.
//
//go:embed *.meta.json
var Schemas embed.FS

// All lists the native inputs, sorted by name.
var All = []module.Module{
	module.InputModule("org.osbuild.containers", containers),
	module.InputModule("org.osbuild.containers-storage", containersStorage),
	module.InputModule("org.osbuild.files", files),
	module.InputModule("org.osbuild.noop", noop),
	module.InputModule("org.osbuild.tree", tree),
}
