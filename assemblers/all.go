// Package assemblers holds Ossify's native assemblers: one file each, its schema beside it,
// one line each in the table below.
package assemblers

import (
	"embed"

	"github.com/ossify/ossify/module"
)

// Schemas holds NAME.meta.json of every native module of this family.
//
//go:embed *.meta.json
var Schemas embed.FS

// All lists the native assemblers, sorted by name.
var All = []module.Module{
	module.Stage("org.osbuild.noop", noop),
	module.Stage("org.osbuild.oci-archive", ociArchive),
	module.Stage("org.osbuild.qemu", qemu),
	module.Stage("org.osbuild.rawfs", rawfs),
	module.Stage("org.osbuild.tar", tar),
}
