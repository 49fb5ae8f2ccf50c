package stages

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ossify/ossify/module"
)

type dnfConfigOptions struct {
	Variables []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"variables"`
	Config ordered[ordered[json.RawMessage]] `json:"config"`
}

// dnfConfig writes DNF's variables, a file each, and changes its configuration.
func dnfConfig(_ context.Context, args *module.Args, options dnfConfigOptions) error {
	for _, variable := range options.Variables {
		if err := writeFile(args, "/etc/dnf/vars/"+variable.Name, variable.Value+"\n"); err != nil {
			return fmt.Errorf("set DNF's variable %s: %w", variable.Name, err)
		}
	}
	if len(options.Config) == 0 {
		return nil
	}
	const path = "/etc/dnf/dnf.conf"
	file, err := openINI(args, path)
	if err != nil {
		return fmt.Errorf("configure DNF: %w", err)
	}
	style := iniStyle{separator: ", "}
	for _, section := range options.Config {
		file.AddSection(section.name)
		for _, option := range section.value {
			value, err := style.value(option.value)
			if err != nil {
				return fmt.Errorf("configure DNF: %s: %w", option.name, err)
			}
			if err := file.Set(section.name, option.name, value); err != nil {
				return fmt.Errorf("configure DNF: %w", err)
			}
		}
	}
	if err := makeDirs(args, "/etc/dnf"); err != nil {
		return fmt.Errorf("configure DNF: %w", err)
	}
	if err := writeFileMode(args, path, file.String(), 0o644); err != nil {
		return fmt.Errorf("configure DNF: %w", err)
	}
	return nil
}
