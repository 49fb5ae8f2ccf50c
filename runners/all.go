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
var All = []module.Module{
	runner("org.osbuild.AutoSD9", redHat()),
	runner("org.osbuild.almalinux8", redHat()),
	runner("org.osbuild.arch", anyLinux()),
	runner("org.osbuild.asahi-fedora-remix", redHat()),
	runner("org.osbuild.autosd", redHat()),
	runner("org.osbuild.centos8", redHat()),
	runner("org.osbuild.debian", debian()),
	runner("org.osbuild.eln11", redHat()),
	runner("org.osbuild.fedora-asahi-remix", redHat()),
	runner("org.osbuild.fedora27", redHat()),
	runner("org.osbuild.fedora30", redHat()),
	runner("org.osbuild.linux", anyLinux()),
	runner("org.osbuild.ol8", redHat()),
	runner("org.osbuild.rhel7", redHat()),
	runner("org.osbuild.rhivos", redHat()),
	runner("org.osbuild.rocky8", redHat()),
	runner("org.osbuild.ubuntu1804", debian()),
}
