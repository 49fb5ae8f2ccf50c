package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ossify/ossify/ini"
	"github.com/ossify/ossify/module"
)

type nmConnOptions struct {
	Filename string                            `json:"filename"`
	Path     string                            `json:"path"`
	Settings ordered[ordered[json.RawMessage]] `json:"settings"`
}

// nmConn writes a connection profile of NetworkManager.
func nmConn(_ context.Context, args *module.Args, options nmConnOptions) error {
	path := options.Path
	if path == "" {
		if options.Filename == "" {
			return errors.New("path is empty: it must name a file")
		}
		path = "/usr/lib/NetworkManager/system-connections/" + options.Filename
	}
	var config ini.Config
	for _, section := range options.Settings {
		if err := nmStyle().setAll(config.Section(section.name), section.value); err != nil {
			return fmt.Errorf("settings.%s: %w", section.name, err)
		}
	}
	if err := writeNMFile(args, path, &config); err != nil {
		return fmt.Errorf("write connection: %w", err)
	}
	return nil
}
