package stages

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pyjson"
)

type treeinfoOptions struct {
	Path     string                   `json:"path"`
	Treeinfo ordered[json.RawMessage] `json:"treeinfo"`
}

// treeinfoFile is the sections of a .treeinfo, in their order.
type treeinfoFile []*treeinfoSection

type treeinfoSection struct {
	name    string
	options ordered[string]
}

// treeinfo writes a .treeinfo, which describes an installation tree: the
// sections of the options and the version of the format.
func treeinfo(_ context.Context, args *module.Args, options treeinfoOptions) error {
	if options.Path == "" || options.Treeinfo == nil {
		return errors.New(`options lack "path" or "treeinfo"`)
	}
	info := options.Treeinfo
	info.set("header", json.RawMessage(`{"version": "1.0"}`))
	var file treeinfoFile
	for _, section := range info {
		value, err := sumFiles(args, section)
		if err == nil {
			err = file.add(section.name, value)
		}
		if err != nil {
			return fmt.Errorf("treeinfo: %s: %w", section.name, err)
		}
	}
	if err := makeDirs(args, path.Dir(options.Path)); err != nil {
		return fmt.Errorf("write %s: %w", options.Path, err)
	}
	if err := writePrivate(args, options.Path, file.String()); err != nil {
		return fmt.Errorf("write %s: %w", options.Path, err)
	}
	return nil
}

// sumFiles turns the paths of the section "checksums" into the section of their
// checksums; another section is returned as it is.
func sumFiles(args *module.Args, section member[json.RawMessage]) (json.RawMessage, error) {
	if section.name != "checksums" {
		return section.value, nil
	}
	var paths []string
	if err := json.Unmarshal(section.value, &paths); err != nil || len(paths) == 0 {
		return section.value, err
	}
	sums := pyjson.NewObject()
	for _, path := range paths {
		sum, err := sumFile(args, path)
		if err != nil {
			return nil, err
		}
		sums.Set(path, "sha256:"+sum)
	}
	return pyjson.Dumps(sums, false), nil
}

// add takes a section, or a list of them whose names get suffixes.
func (f *treeinfoFile) add(name string, value json.RawMessage) error {
	switch bytes.TrimLeft(value, " \t\r\n")[0] {
	case '{':
		var settings ordered[json.RawMessage]
		if err := json.Unmarshal(value, &settings); err != nil {
			return err
		}
		return f.set(name, settings)
	case '[':
		var items []struct {
			Name   string                    `json:"name"`
			Config *ordered[json.RawMessage] `json:"config"`
		}
		if err := json.Unmarshal(value, &items); err != nil {
			return err
		}
		for i, item := range items {
			if item.Config == nil {
				return fmt.Errorf(`item %d lacks "config"`, i)
			}
			full := name
			if item.Name != "" {
				full += "-" + item.Name
			}
			if err := f.set(full, *item.Config); err != nil {
				return fmt.Errorf("item %d: %w", i, err)
			}
		}
		return nil
	}
	return errors.New("a section must be an object, or a list of objects")
}

// set adds settings to the section of that name, which it makes if need be.
func (f *treeinfoFile) set(name string, settings ordered[json.RawMessage]) error {
	// It stands for defaults of all sections in Python's form of the format.
	if name == "DEFAULT" {
		return errors.New("a section cannot be called DEFAULT")
	}
	var section *treeinfoSection
	for _, s := range *f {
		if s.name == name {
			section = s
		}
	}
	if section == nil {
		section = &treeinfoSection{name: name}
		*f = append(*f, section)
	}
	for _, setting := range settings {
		text, err := treeinfoValue(setting.value)
		if err != nil {
			return fmt.Errorf("%s: %w", setting.name, err)
		}
		section.options.set(setting.name, text)
	}
	return nil
}

// treeinfoValue spells a value; numbers as Python does.
func treeinfoValue(raw json.RawMessage) (string, error) {
	value, err := pyjson.Decode(raw, nil)
	if err != nil {
		return "", err
	}
	switch v := value.(type) {
	case string:
		return v, checkPercents(v)
	case bool:
		return fmt.Sprint(v), nil
	case nil:
		return "None", nil
	case json.Number:
		return string(pyjson.Dumps(v, false)), nil
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			text, ok := item.(string)
			if !ok {
				return "", fmt.Errorf("item %d of the list is no text", i)
			}
			items[i] = text
		}
		text := strings.Join(items, ",")
		return text, checkPercents(text)
	}
	return "", errors.New("a value must be text, a number, a boolean, null or a list of texts")
}

// checkPercents fails if Python's reader would not take the value: each % has to
// be one of %% or begin a reference, %(NAME)s.
func checkPercents(text string) error {
	rest := strings.ReplaceAll(text, "%%", "")
	for {
		_, after, ok := strings.Cut(rest, "%")
		if !ok {
			return nil
		}
		name, end, _ := strings.Cut(strings.TrimPrefix(after, "("), ")")
		if !strings.HasPrefix(after, "(") || name == "" || !strings.HasPrefix(end, "s") {
			return fmt.Errorf("%q has a %% that means nothing: write %%%%", text)
		}
		rest = end[1:]
	}
}

// String is the file's text. Lines of a value after the first are indented.
func (f treeinfoFile) String() string {
	var out strings.Builder
	for _, section := range f {
		fmt.Fprintf(&out, "[%s]\n", section.name)
		for _, option := range section.options {
			fmt.Fprintf(&out, "%s=%s\n", option.name, strings.ReplaceAll(option.value, "\n", "\n\t"))
		}
		out.WriteString("\n")
	}
	return out.String()
}

// writePrivate is writeFile for a file that only its owner may read, also if it
// was there.
func writePrivate(args *module.Args, path, content string) (err error) {
	target, err := treeTarget(args, path)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := file.Chmod(0o600); err != nil {
		return err
	}
	_, err = file.WriteString(content)
	return err
}
