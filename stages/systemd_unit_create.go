package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type unitCreateOptions struct {
	Filename string     `json:"filename"`
	Config   unitConfig `json:"config"`
	UnitType string     `json:"unit-type"`
	UnitPath string     `json:"unit-path"`
}

// systemdUnitCreate writes a unit.
func systemdUnitCreate(_ context.Context, args *module.Args, options unitCreateOptions) error {
	if err := longName(options.Filename); err != nil {
		return err
	}
	for suffix, section := range map[string]string{".service": "Service", ".mount": "Mount", ".socket": "Socket", ".swap": "Swap"} {
		if strings.HasSuffix(options.Filename, suffix) && !options.Config.has(section) {
			return fmt.Errorf("%s needs a section %s", options.Filename, section)
		}
	}
	text, err := options.Config.text()
	if err != nil {
		return err
	}
	dir := "/usr/lib/systemd/"
	if options.UnitPath == "etc" {
		dir = "/etc/systemd/"
	}
	if err := writeFile(args, dir+unitFolder(options.UnitType)+"/"+options.Filename, text); err != nil {
		return fmt.Errorf("write unit: %w", err)
	}
	return nil
}
