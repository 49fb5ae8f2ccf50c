package stages

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ossify/ossify/ini"
	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pyjson"
)

// openINI reads an INI file of the tree; one that is not there is empty.
func openINI(args *module.Args, path string) (*ini.File, error) {
	text, err := readTextIfThere(args, path)
	if err != nil {
		return nil, err
	}
	file, err := ini.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, nil
}

// iniStyle is how a stage writes what is no text.
type iniStyle struct{ separator, yes, no string }

// value writes a value of the options; numbers are spelled as by Python.
func (s iniStyle) value(raw json.RawMessage) (string, error) {
	decoded, err := pyjson.Decode(raw, nil)
	if err != nil {
		return "", err
	}
	switch v := decoded.(type) {
	case string:
		return v, nil
	case bool:
		if v {
			return s.yes, nil
		}
		return s.no, nil
	case json.Number:
		return pythonNumber(v), nil
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			text, ok := item.(string)
			if !ok {
				return "", fmt.Errorf("item %d of the list is no text", i)
			}
			items[i] = text
		}
		return strings.Join(items, s.separator), nil
	}
	return "", errors.New("it must be text, a number, a boolean or a list of texts")
}

// setAll sets options of a section in the manifest's order.
func (s iniStyle) setAll(section *ini.Section, options ordered[json.RawMessage]) error {
	for _, option := range options {
		value, err := s.value(option.value)
		if err != nil {
			return fmt.Errorf("%s: %w", option.name, err)
		}
		if err := section.Set(option.name, value); err != nil {
			return err
		}
	}
	return nil
}

// writeFileMode is writeFile that gives the file a mode, before it is filled.
func writeFileMode(args *module.Args, path, content string, mode os.FileMode) (err error) {
	target, err := treeTarget(args, path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return err
}
