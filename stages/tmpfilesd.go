package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type tmpfilesdOptions struct {
	Filename string `json:"filename"`
	Config   []struct {
		Type     string `json:"type"`
		Path     string `json:"path"`
		Mode     string `json:"mode"`
		User     string `json:"user"`
		Group    string `json:"group"`
		Age      string `json:"age"`
		Argument string `json:"argument"`
	} `json:"config"`
}

// tmpfilesd writes a file of tmpfiles.d. Fields at the end of a line may be
// missing, others are "-".
func tmpfilesd(_ context.Context, args *module.Args, options tmpfilesdOptions) error {
	var out strings.Builder
	for _, c := range options.Config {
		fields := []string{c.Type, c.Path, c.Mode, c.User, c.Group, c.Age, c.Argument}
		for len(fields) > 2 && fields[len(fields)-1] == "" {
			fields = fields[:len(fields)-1]
		}
		for i, field := range fields {
			if i >= 2 && field == "" {
				fields[i] = "-"
			}
		}
		out.WriteString(strings.Join(fields, " ") + "\n")
	}
	if err := writeFile(args, "/usr/lib/tmpfiles.d/"+options.Filename, out.String()); err != nil {
		return fmt.Errorf("configure temporary files: %w", err)
	}
	return nil
}
