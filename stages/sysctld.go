package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type sysctldOptions struct {
	Filename string `json:"filename"`
	Config   []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	} `json:"config"`
}

// sysctld writes a file of kernel parameters; one without a value is excluded.
func sysctld(_ context.Context, args *module.Args, options sysctldOptions) error {
	var out strings.Builder
	for _, parameter := range options.Config {
		out.WriteString(parameter.Key)
		if parameter.Value != "" {
			out.WriteString(" = " + parameter.Value)
		}
		out.WriteByte('\n')
	}
	if err := writeFile(args, "/usr/lib/sysctl.d/"+options.Filename, out.String()); err != nil {
		return fmt.Errorf("write kernel parameters: %w", err)
	}
	return nil
}
