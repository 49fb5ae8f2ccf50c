package inputs

import (
	"context"
	"errors"
	"fmt"

	"github.com/ossify/ossify/module"
)

// tree provides the whole tree of one pipeline, read-only.
func tree(_ context.Context, call *module.MapCall, store *module.StoreClient) (any, error) {
	if call.Origin != "org.osbuild.pipeline" {
		return nil, fmt.Errorf("origin %q is none that trees come from: use org.osbuild.pipeline", call.Origin)
	}
	ids := sortedRefs(call.Refs)
	if len(ids) != 1 {
		return nil, fmt.Errorf("a tree comes from one pipeline, got %d references", len(ids))
	}
	if ids[0] == "" {
		return nil, errors.New("the pipeline that is referred to has no stages, so there is no tree")
	}
	if err := store.ReadTreeAt(ids[0], call.Target, "/"); err != nil {
		return nil, fmt.Errorf("provide the tree: %w", err)
	}
	return map[string]any{"path": call.Target}, nil
}
