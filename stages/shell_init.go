package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type shellInitOptions struct {
	Files ordered[struct {
		Env []struct {
			Key   string `json:"key"`
			Value string `json:"value"`
		} `json:"env"`
	}] `json:"files"`
}

// shellInit writes files of /etc/profile.d that export variables. Values are not
// escaped: the shell expands them when a user logs in.
func shellInit(_ context.Context, args *module.Args, options shellInitOptions) error {
	for _, file := range options.Files {
		if file.value.Env == nil {
			return fmt.Errorf("file %s lacks \"env\"", file.name)
		}
		var text strings.Builder
		for _, variable := range file.value.Env {
			fmt.Fprintf(&text, "export %s=\"%s\"\n", variable.Key, variable.Value)
		}
		if err := writeFile(args, "/etc/profile.d/"+file.name, text.String()); err != nil {
			return fmt.Errorf("write shell variables: %w", err)
		}
	}
	return nil
}
