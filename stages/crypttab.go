package stages

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type crypttabOptions struct {
	Volumes []struct {
		Volume  string  `json:"volume"`
		UUID    string  `json:"uuid"`
		Path    string  `json:"path"`
		Keyfile *string `json:"keyfile"`
		Options string  `json:"options"`
	} `json:"volumes"`
}

// crypttab replaces the content of /etc/crypttab.
func crypttab(_ context.Context, args *module.Args, options crypttabOptions) error {
	if options.Volumes == nil {
		return errors.New(`options lack "volumes"`)
	}
	var text strings.Builder
	for i, volume := range options.Volumes {
		device := volume.Path
		if volume.UUID != "" {
			device = "UUID=" + volume.UUID
		}
		if device == "" {
			return fmt.Errorf("volume %d (%s): uuid or path must not be empty", i, volume.Volume)
		}
		keyfile := "none"
		if volume.Keyfile != nil {
			keyfile = *volume.Keyfile
		}
		fmt.Fprintf(&text, "%s\t%s\t%s\t%s\n", volume.Volume, device, keyfile, volume.Options)
	}
	if err := writeFile(args, "/etc/crypttab", text.String()); err != nil {
		return fmt.Errorf("write crypttab: %w", err)
	}
	return nil
}
