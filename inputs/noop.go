package inputs

import (
	"context"
	"fmt"
	"os"

	"github.com/ossify/ossify/module"
)

// noop hands the references on and provides an empty folder.
func noop(_ context.Context, call *module.MapCall, _ *module.StoreClient) (any, error) {
	if _, err := os.MkdirTemp(call.Target, "noop-"); err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	return map[string]any{"path": call.Target, "data": map[string]any{"refs": call.Refs}}, nil
}
