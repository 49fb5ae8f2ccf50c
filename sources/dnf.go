package sources

import (
	"context"
	"maps"
	"slices"

	"github.com/ossify/ossify/module"
)

// dnf has nothing to download: its items, settings of repositories, are for the
// stage org.osbuild.dnf, which gets them from the engine.
func dnf(_ context.Context, _ *module.Service, d *module.Download) ([]module.ItemResult, error) {
	var results []module.ItemResult
	for _, checksum := range slices.Sorted(maps.Keys(d.Items)) {
		results = append(results, module.ItemResult{Success: true, Metadata: map[string]any{"checksum": checksum, "cached": true}})
	}
	return results, nil
}
