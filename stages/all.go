// Package stages holds Ossify's native stages: one file each, its schema beside it,
// one line each in the table below.
package stages

import (
	"embed"

	"github.com/ossify/ossify/module"
)

// Schemas holds NAME.meta.json of every native module of this family.
//
//go:embed *.meta.json
var Schemas embed.FS

// All lists the native stages, sorted by name.
var All = []module.Module{
	module.Stage("org.osbuild.noop", noop),
}
