package inputs

import (
	"context"

	"github.com/ossify/ossify/module"
)

// noop provides nothing; the stage is told the references.
func noop(_ context.Context, call *module.MapCall, _ *module.StoreClient) (any, error) {
	return map[string]any{"path": call.Target, "data": map[string]any{"refs": call.Refs}}, nil
}
