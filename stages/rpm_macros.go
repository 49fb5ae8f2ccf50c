package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type rpmMacrosOptions struct {
	Filename string                   `json:"filename"`
	Macros   ordered[json.RawMessage] `json:"macros"`
}

// rpmMacros writes a file of macros in the manifest's order.
func rpmMacros(_ context.Context, args *module.Args, options rpmMacrosOptions) error {
	var text strings.Builder
	for _, macro := range options.Macros {
		value, err := rpmMacroValue(macro.name, macro.value)
		if err != nil {
			return fmt.Errorf("macro %s: %w", macro.name, err)
		}
		fmt.Fprintf(&text, "%%%s %s\n", macro.name, value)
	}
	if err := writeWithParents(args, options.Filename, text.String()); err != nil {
		return fmt.Errorf("write macros: %w", err)
	}
	return nil
}

// rpmMacroValue joins the languages, the one macro that is a list.
func rpmMacroValue(name string, raw json.RawMessage) (string, error) {
	if name != "_install_langs" {
		var value string
		err := json.Unmarshal(raw, &value)
		return value, err
	}
	var langs []string
	err := json.Unmarshal(raw, &langs)
	return strings.Join(langs, ":"), err
}
