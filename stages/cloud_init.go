package stages

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pyjson"
	"github.com/ossify/ossify/pyyaml"
)

type cloudInitOptions struct {
	Filename string          `json:"filename"`
	Config   json.RawMessage `json:"config"`
}

// cloudInit writes a configuration file of cloud-init, which wants the list of
// data sources on one line.
func cloudInit(_ context.Context, args *module.Args, options cloudInitOptions) error {
	decoded, err := pyjson.Decode(options.Config, nil)
	if err != nil {
		return fmt.Errorf("decode config: %w", err)
	}
	config := decoded.(*pyjson.Object)
	if sources, ok := config.Get("datasource_list").([]any); ok {
		config.Set("datasource_list", pyyaml.Flow(sources))
	}
	if err := writeFile(args, "/etc/cloud/cloud.cfg.d/"+options.Filename, pyyaml.Dump(config)); err != nil {
		return fmt.Errorf("configure cloud-init: %w", err)
	}
	return nil
}
