package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ossify/ossify/module"
)

type cronScriptOptions struct {
	Interval string `json:"interval"`
	Filename string `json:"filename"`
	Simple   *struct {
		Comment []string `json:"comment"`
		Command string   `json:"command"`
	} `json:"simple"`
}

// cronScript writes a script to one of cron's drop-in directories.
func cronScript(_ context.Context, args *module.Args, options cronScriptOptions) error {
	if options.Simple == nil {
		return errors.New(`options lack "simple"`)
	}
	// The first line is osbuild's, which has it without a #.
	text := "!/bin/bash\n"
	if len(options.Simple.Comment) > 0 {
		text += "# " + strings.Join(options.Simple.Comment, "\n# ") + "\n"
	}
	path := "/etc/cron." + options.Interval + "/" + options.Filename
	if err := writeFile(args, path, text+options.Simple.Command+"\n"); err != nil {
		return fmt.Errorf("write script for cron: %w", err)
	}
	target, err := treeTarget(args, path)
	if err != nil {
		return err
	}
	return os.Chmod(target, 0o755)
}
