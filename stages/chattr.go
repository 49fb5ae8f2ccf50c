package stages

import (
	"context"
	"fmt"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
)

type chattrOptions struct {
	Items map[string]struct {
		Immutable bool `json:"immutable"`
	} `json:"items"`
}

// chattr makes files and directories immutable, or mutable again.
func chattr(_ context.Context, args *module.Args, options chattrOptions) error {
	marks, err := openMarks(args)
	if err != nil {
		return err
	}
	for name, item := range options.Items {
		place, err := parseLocation(args, name)
		if err != nil {
			return err
		}
		file, err := place.entry()
		if place.contents {
			file, err = place.target()
		}
		if err != nil {
			return err
		}
		flags := uint32(0)
		if item.Immutable {
			flags = record.Immutable
		}
		if err := marks.flag(file, flags, record.Immutable); err != nil {
			return fmt.Errorf("change attributes of %s: %w", name, err)
		}
	}
	return marks.save()
}
