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
	module.SourceElsewhere("org.osbuild.containers-storage", "org.osbuild.containers-storage", containersStorage),
	module.Source("org.osbuild.curl", "org.osbuild.files", curl),
	module.Source("org.osbuild.inline", "org.osbuild.files", inline),
	module.Source("org.osbuild.skopeo", "org.osbuild.containers", skopeo),
	module.Source("org.osbuild.skopeo-index", "org.osbuild.files", skopeoIndex),
}
