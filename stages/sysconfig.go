package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/ossify/ossify/module"
)

type sysconfigOptions struct {
	Kernel         ordered[json.RawMessage]                     `json:"kernel"`
	Network        ordered[json.RawMessage]                     `json:"network"`
	NetworkScripts map[string]ordered[ordered[json.RawMessage]] `json:"network-scripts"`
	Livesys        *struct {
		Session string `json:"session"`
	} `json:"livesys"`
	Desktop *struct {
		Preferred      *string `json:"preferred"`
		DisplayManager *string `json:"displaymanager"`
	} `json:"desktop"`
}

const sysconfigDir = "/etc/sysconfig/"

// sysconfig writes files of /etc/sysconfig, those whose options are there.
func sysconfig(_ context.Context, args *module.Args, options sysconfigOptions) error {
	if err := makeDirs(args, sysconfigDir); err != nil {
		return err
	}
	kernel := map[string]string{"update_default": "UPDATEDEFAULT", "default_kernel": "DEFAULTKERNEL"}
	if err := writeSysconfig(args, "kernel", options.Kernel, kernel, ""); err != nil {
		return err
	}
	network := map[string]string{"networking": "NETWORKING", "no_zero_conf": "NOZEROCONF"}
	if err := writeSysconfig(args, "network", options.Network, network, ""); err != nil {
		return err
	}
	if len(options.NetworkScripts) > 0 {
		if err := makeDirs(args, sysconfigDir+"network-scripts"); err != nil {
			return err
		}
	}
	for _, device := range options.NetworkScripts["ifcfg"] {
		names := map[string]string{}
		for _, option := range device.value {
			names[option.name] = strings.ToUpper(option.name)
		}
		if err := writeSysconfig(args, "network-scripts/ifcfg-"+device.name, device.value, names, `"`); err != nil {
			return err
		}
	}
	if o := options.Livesys; o != nil {
		if err := replaceMode(args, "livesys", "livesys_session=\""+o.Session+"\"\n"); err != nil {
			return err
		}
	}
	if o := options.Desktop; o != nil {
		text := ""
		if o.Preferred != nil {
			text += "PREFERRED=" + *o.Preferred + "\n"
		}
		if o.DisplayManager != nil {
			text += "DISPLAYMANAGER=" + *o.DisplayManager + "\n"
		}
		return replaceMode(args, "desktop", text)
	}
	return nil
}

// writeSysconfig writes one line for each option, under the name that it has
// there, with quote around its value. Without options there is no file.
func writeSysconfig(args *module.Args, file string, options ordered[json.RawMessage], names map[string]string, quote string) error {
	if len(options) == 0 {
		return nil
	}
	style := iniStyle{yes: "yes", no: "no"}
	var out strings.Builder
	for _, option := range options {
		value, err := style.value(option.value)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", file, option.name, err)
		}
		fmt.Fprintf(&out, "%s=%s%s%s\n", names[option.name], quote, value, quote)
	}
	if err := writeFile(args, sysconfigDir+file, out.String()); err != nil {
		return fmt.Errorf("write %s: %w", sysconfigDir+file, err)
	}
	return nil
}

// replaceMode writes a file that is root's and that everybody may read, also if
// it was there.
func replaceMode(args *module.Args, file, text string) error {
	if err := writeFile(args, sysconfigDir+file, text); err != nil {
		return fmt.Errorf("write %s: %w", sysconfigDir+file, err)
	}
	target, err := treeTarget(args, sysconfigDir+file)
	if err != nil {
		return err
	}
	if err := os.Chown(target, 0, 0); err != nil {
		return err
	}
	return os.Chmod(target, 0o644)
}
