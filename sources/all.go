// Package sources holds Ossify's native sources: one file each, its schema beside it,
// one line each in the table below.
package sources

import (
	"context"
	"embed"
	"errors"

	"github.com/ossify/ossify/module"
)

// Schemas holds NAME.meta.json of every native module of this family.
//
//go:embed *.meta.json
var Schemas embed.FS

// All lists the native sources, sorted by name.
var All = []module.Module{
	module.SourceElsewhere("org.osbuild.containers-storage", "org.osbuild.containers-storage", withoutSecrets(containersStorage)),
	module.Source("org.osbuild.curl", "org.osbuild.files", curl),
	module.SourceElsewhere("org.osbuild.dnf", "org.osbuild.dnf", dnf),
	module.Source("org.osbuild.inline", "org.osbuild.files", withoutSecrets(inline)),
	module.Source("org.osbuild.skopeo", "org.osbuild.containers", withoutSecrets(skopeo)),
	module.Source("org.osbuild.skopeo-index", "org.osbuild.files", withoutSecrets(skopeoIndex)),
}

// withoutSecrets is fetch for a source that can do nothing with --secrets.
func withoutSecrets(fetch module.Fetch) module.Fetch {
	return func(ctx context.Context, s *module.Service, d *module.Download) ([]module.ItemResult, error) {
		if len(d.Secrets) > 0 && string(d.Secrets) != "null" {
			return nil, errors.New("--secrets has something for this source, which takes none")
		}
		return fetch(ctx, s, d)
	}
}
