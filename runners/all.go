// Package runners holds Ossify's native runners: one file each, its schema beside it,
// one line each in the table below.
package runners

import (
	"embed"

	"github.com/ossify/ossify/module"
)

// Schemas holds NAME.meta.json of every native module of this family.
//
//go:embed *.meta.json
var Schemas embed.FS

// All lists the native runners, sorted by name.
var All = []module.Module{}
