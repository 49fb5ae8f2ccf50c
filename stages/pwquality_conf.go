package stages

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ossify/ossify/module"
)

type pwqualityConfOptions struct {
	Config ordered[json.Number] `json:"config"`
}

// pwqualityConf changes settings in /etc/security/pwquality.conf.
func pwqualityConf(_ context.Context, args *module.Args, options pwqualityConfOptions) error {
	const path = "/etc/security/pwquality.conf"
	text, err := readText(args, path)
	if err != nil {
		return fmt.Errorf("set rules for passwords: %w", err)
	}
	var settings []lineSetting
	for _, option := range options.Config {
		settings = append(settings, lineSetting{option.name, pythonNumber(option.value)})
	}
	same := func(line, setting string) bool { return line == setting }
	if err := rewriteInPlace(args, path, setLines(text, " = ", settings, same)); err != nil {
		return fmt.Errorf("set rules for passwords: %w", err)
	}
	return nil
}
