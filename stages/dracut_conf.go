package stages

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type dracutConfOptions struct {
	Filename string       `json:"filename"`
	Config   ordered[any] `json:"config"`
}

// dracutConf writes a configuration file of dracut.
func dracutConf(_ context.Context, args *module.Args, options dracutConfOptions) error {
	if options.Config == nil {
		return errors.New(`options lack "config"`)
	}
	var text strings.Builder
	for _, option := range options.Config {
		switch value := option.value.(type) {
		case string:
			fmt.Fprintf(&text, "%s=\"%s\"\n", option.name, value)
		case bool:
			fmt.Fprintf(&text, "%s=\"%s\"\n", option.name, yesNo(value))
		case []any:
			words := make([]string, len(value))
			for i, word := range value {
				words[i] = fmt.Sprint(word)
			}
			fmt.Fprintf(&text, "%s+=\" %s \"\n", option.name, strings.Join(words, " "))
		}
	}
	const dir = "/usr/lib/dracut/dracut.conf.d"
	if err := makeDirs(args, dir); err != nil {
		return fmt.Errorf("configure dracut: %w", err)
	}
	if err := writeFile(args, dir+"/"+options.Filename, text.String()); err != nil {
		return fmt.Errorf("configure dracut: %w", err)
	}
	return nil
}

// yesNo is how many configuration files spell a truth value.
func yesNo(value bool) string {
	if value {
		return "yes"
	}
	return "no"
}
