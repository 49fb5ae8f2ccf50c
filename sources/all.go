// Package sources holds Ossify's native sources: one file each, its schema beside it,
// one line each in the table below.
package sources

import (
	"embed"

	"github.com/ossify/ossify/module"
)

// Schemas holds NAME.meta.json of every native module of this family.
//
//go:embed *.meta.json
var Schemas embed.FS

// All lists the native sources, sorted by name.
var All = []module.Module{
	module.Source("org.osbuild.curl", "org.osbuild.files", curl),
	module.Source("org.osbuild.inline", "org.osbuild.files", inline),
}
