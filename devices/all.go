// Package devices holds Ossify's native devices: one file each, its schema beside
// it, one line each in the table below.
package devices

import (
	"embed"

	"github.com/ossify/ossify/loop"
	"github.com/ossify/ossify/module"
)

// Schemas holds NAME.meta.json of every native module of this family.
//
//go:embed *.meta.json
var Schemas embed.FS

// All lists the native devices, sorted by name.
var All = []module.Module{
	module.Device("org.osbuild.loopback", loop.Available, loopback),
}
