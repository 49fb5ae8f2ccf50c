package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/ossify/ossify/ini"
	"github.com/ossify/ossify/module"
)

type nmConfOptions struct {
	Path     string                   `json:"path"`
	Settings ordered[json.RawMessage] `json:"settings"`
}

// nmConf writes a configuration file of NetworkManager.
func nmConf(_ context.Context, args *module.Args, options nmConfOptions) error {
	var config ini.Config
	for _, setting := range options.Settings {
		if err := addNMSections(&config, setting.name, setting.value); err != nil {
			return fmt.Errorf("settings.%s: %w", setting.name, err)
		}
	}
	if err := writeNMFile(args, options.Path, &config); err != nil {
		return fmt.Errorf("configure NetworkManager: %w", err)
	}
	return nil
}

// nmStyle is how NetworkManager has values.
func nmStyle() iniStyle { return iniStyle{separator: ",", yes: "true", no: "false"} }

// addNMSections adds one section, or one for each item of a list: an item's own
// name follows after a hyphen, and those with one name share a section.
func addNMSections(config *ini.Config, name string, raw json.RawMessage) error {
	var list []struct {
		Name   string                   `json:"name"`
		Config ordered[json.RawMessage] `json:"config"`
	}
	if raw[0] != '[' {
		var section ordered[json.RawMessage]
		if err := json.Unmarshal(raw, &section); err != nil {
			return err
		}
		return nmStyle().setAll(config.Section(name), section)
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	for _, item := range list {
		section := name
		if item.Name != "" {
			section += "-" + item.Name
		}
		if err := nmStyle().setAll(config.Section(section), item.Config); err != nil {
			return err
		}
	}
	return nil
}

// writeNMFile writes a file that only root may read, as it may hold secrets,
// and makes the directories that lead to it.
func writeNMFile(args *module.Args, path string, config *ini.Config) error {
	if err := makeDirs(args, filepath.Dir("/"+path)); err != nil {
		return err
	}
	return writeFileMode(args, path, config.String(), 0o600)
}
