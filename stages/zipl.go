package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type ziplOptions struct {
	// Timeout is in seconds.
	Timeout json.Number `json:"timeout"`
}

// zipl writes /etc/zipl.conf for a menu made of the boot loader entries.
func zipl(_ context.Context, args *module.Args, options ziplOptions) error {
	timeout := "0"
	if options.Timeout != "" {
		timeout = pythonNumber(options.Timeout)
	}
	if err := makeDirs(args, "/etc"); err != nil {
		return err
	}
	lines := []string{"[defaultboot]", "defaultauto", "prompt=1", "timeout=" + timeout, "target=/boot"}
	if err := writeFile(args, "/etc/zipl.conf", strings.Join(lines, "\n")+"\n"); err != nil {
		return fmt.Errorf("write zipl.conf: %w", err)
	}
	return nil
}
