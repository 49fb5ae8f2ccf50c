package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type modprobeOptions struct {
	Filename string `json:"filename"`
	Commands []struct {
		Command    string `json:"command"`
		ModuleName string `json:"modulename"`
		CmdLine    string `json:"cmdline"`
	} `json:"commands"`
}

// modprobe writes a configuration file for modprobe.
func modprobe(_ context.Context, args *module.Args, options modprobeOptions) error {
	var out strings.Builder
	for _, c := range options.Commands {
		out.WriteString(c.Command + " " + c.ModuleName)
		if c.Command == "install" {
			out.WriteString(" " + c.CmdLine)
		}
		out.WriteByte('\n')
	}
	if err := writeWithParents(args, "/usr/lib/modprobe.d/"+options.Filename, out.String()); err != nil {
		return fmt.Errorf("configure modprobe: %w", err)
	}
	return nil
}
