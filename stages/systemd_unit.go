package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ossify/ossify/module"
)

// unitConfig is the text of a unit, by section and option.
type unitConfig ordered[ordered[json.RawMessage]]

// UnmarshalJSON keeps the order.
func (c *unitConfig) UnmarshalJSON(data []byte) error {
	return (*ordered[ordered[json.RawMessage]])(c).UnmarshalJSON(data)
}

// has says whether there is a section of that name.
func (c unitConfig) has(name string) bool {
	for _, section := range c {
		if section.name == name {
			return true
		}
	}
	return false
}

// text is the unit's file. A list is one line for each of its items; lines that
// are there already are not repeated.
func (c unitConfig) text() (string, error) {
	var out strings.Builder
	for _, section := range c {
		fmt.Fprintf(&out, "[%s]\n", section.name)
		seen := map[string]bool{}
		for _, option := range section.value {
			lines, err := unitLines(option.name, option.value)
			if err != nil {
				return "", fmt.Errorf("config.%s.%s: %w", section.name, option.name, err)
			}
			for _, line := range lines {
				if !seen[line] {
					out.WriteString(line + "\n")
				}
				seen[line] = true
			}
		}
		out.WriteByte('\n')
	}
	return out.String(), nil
}

// unitLines returns the lines of one option.
func unitLines(name string, raw json.RawMessage) ([]string, error) {
	if raw[0] != '[' {
		value, err := pythonStyle().value(raw)
		return []string{name + "=" + strings.ReplaceAll(value, "\n", "\n\t")}, err
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, err
	}
	var lines []string
	for _, item := range items {
		value, err := unitItem(name, item)
		if err != nil {
			return nil, err
		}
		lines = append(lines, name+"="+value)
	}
	return lines, nil
}

// unitItem is an item of a list; of Environment an object.
func unitItem(name string, raw json.RawMessage) (string, error) {
	if name != "Environment" {
		return pythonStyle().value(raw)
	}
	var variable struct {
		Key   *string `json:"key"`
		Value *string `json:"value"`
	}
	if err := json.Unmarshal(raw, &variable); err != nil {
		return "", err
	}
	if variable.Key == nil || variable.Value == nil {
		return "", errors.New("a variable needs key and value")
	}
	return `"` + *variable.Key + "=" + *variable.Value + `"`, nil
}

// longName refuses what is longer than a file's name can be; osbuild counts
// characters.
func longName(name string) error {
	if utf8.RuneCountInString(name) > 255 {
		return fmt.Errorf("%.40s... has more than 255 characters, too many for the name of a file", name)
	}
	return nil
}

type unitOptions struct {
	Unit     string     `json:"unit"`
	Dropin   string     `json:"dropin"`
	Config   unitConfig `json:"config"`
	UnitType string     `json:"unit-type"`
}

// systemdUnit writes a drop-in file for a unit.
func systemdUnit(_ context.Context, args *module.Args, options unitOptions) error {
	if err := longName(options.Unit + ".d"); err != nil {
		return err
	}
	text, err := options.Config.text()
	if err != nil {
		return err
	}
	path := "/usr/lib/systemd/" + unitFolder(options.UnitType) + "/" + options.Unit + ".d/" + options.Dropin
	if err := writeWithParents(args, path, text); err != nil {
		return fmt.Errorf("write drop-in of %s: %w", options.Unit, err)
	}
	return nil
}

// unitFolder is where units of that type are, below systemd's folder.
func unitFolder(unitType string) string {
	if unitType == "global" {
		return "user"
	}
	return "system"
}
