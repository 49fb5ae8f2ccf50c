package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type pamLimitsOptions struct {
	Filename string `json:"filename"`
	Config   []struct {
		Domain string          `json:"domain"`
		Type   string          `json:"type"`
		Item   string          `json:"item"`
		Value  json.RawMessage `json:"value"`
	} `json:"config"`
}

// pamLimits writes a file of limits for pam_limits.
func pamLimits(_ context.Context, args *module.Args, options pamLimitsOptions) error {
	var out strings.Builder
	for i, limit := range options.Config {
		value, err := pythonStyle().value(limit.Value)
		if err != nil {
			return fmt.Errorf("config[%d].value: %w", i, err)
		}
		fmt.Fprintf(&out, "%s %s %s %s\n", limit.Domain, limit.Type, limit.Item, value)
	}
	if err := writeFile(args, "/etc/security/limits.d/"+options.Filename, out.String()); err != nil {
		return fmt.Errorf("write limits: %w", err)
	}
	return nil
}
