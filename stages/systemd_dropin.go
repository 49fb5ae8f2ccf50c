package stages

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ossify/ossify/ini"
	"github.com/ossify/ossify/module"
)

// dropinOptions are a configuration file of one of systemd's daemons.
type dropinOptions struct {
	Filename string                            `json:"filename"`
	Config   ordered[ordered[json.RawMessage]] `json:"config"`
}

// pythonStyle is how Python's str() has values.
func pythonStyle() iniStyle { return iniStyle{yes: "True", no: "False"} }

// text is the file's text.
func (o *dropinOptions) text() (string, error) {
	var config ini.Config
	for _, section := range o.Config {
		if err := pythonStyle().setAll(config.Section(section.name), section.value); err != nil {
			return "", fmt.Errorf("config.%s: %w", section.name, err)
		}
	}
	return config.String(), nil
}

// systemdJournald writes a new configuration file of the journal.
func systemdJournald(_ context.Context, args *module.Args, options dropinOptions) error {
	text, err := options.text()
	if err == nil {
		err = createFile(args, "/usr/lib/systemd/journald.conf.d/"+options.Filename, text)
	}
	if err != nil {
		return fmt.Errorf("configure systemd-journald: %w", err)
	}
	return nil
}

// systemdLogind writes a configuration file of the login manager.
func systemdLogind(_ context.Context, args *module.Args, options dropinOptions) error {
	text, err := options.text()
	if err == nil {
		err = writeWithParents(args, "/usr/lib/systemd/logind.conf.d/"+options.Filename, text)
	}
	if err != nil {
		return fmt.Errorf("configure systemd-logind: %w", err)
	}
	return nil
}
