package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type selinuxConfigOptions struct {
	State string `json:"state"`
	Type  string `json:"type"`
}

// selinuxConfig changes the lines of /etc/selinux/config that are there.
func selinuxConfig(_ context.Context, args *module.Args, options selinuxConfigOptions) error {
	const path = "/etc/selinux/config"
	text, err := readText(args, path)
	if err != nil {
		return fmt.Errorf("configure SELinux: %w", err)
	}
	values := map[string]string{"SELINUX": options.State, "SELINUXTYPE": options.Type}
	var out strings.Builder
	for line := range strings.Lines(text) {
		if trimmed := strings.TrimSpace(line); trimmed != "" && !strings.HasPrefix(line, "#") {
			key, _, ok := strings.Cut(trimmed, "=")
			if !ok {
				return fmt.Errorf("configure SELinux: %s: line %q has no =", path, trimmed)
			}
			if value := values[key]; value != "" {
				line = key + "=" + value + "\n"
			}
		}
		out.WriteString(line)
	}
	if err := writeFile(args, path, out.String()); err != nil {
		return fmt.Errorf("configure SELinux: %w", err)
	}
	return nil
}
