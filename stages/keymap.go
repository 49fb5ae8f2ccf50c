package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type keymapOptions struct {
	Keymap    string `json:"keymap"`
	X11Keymap *struct {
		Layouts []string `json:"layouts"`
	} `json:"x11-keymap"`
	Font string `json:"font"`
}

// xkbConfig is the X server's configuration of the keyboard, byte for byte as
// osbuild writes it.
const xkbConfig = `# Created by osbuild. Do not edit manually, use localectl(1).
Section "InputClass"
        Identifier "system-keyboard"
        MatchIsKeyboard "on"
        Option "XkbLayout" "%s"
EndSection
`

// keymap writes /etc/vconsole.conf, as osbuild does with systemd-firstboot, and
// the keyboard layouts of the X server.
func keymap(_ context.Context, args *module.Args, options keymapOptions) error {
	if err := checkFirstbootName("keymap", "us or de-latin1", options.Keymap); err != nil {
		return err
	}
	text := "KEYMAP=" + quoteEnv(options.Keymap) + "\n"
	if options.Font != "" {
		text += "FONT=" + options.Font + "\n"
	}
	if err := replaceFile(args, "/etc/vconsole.conf", text); err != nil {
		return fmt.Errorf("set keymap of the console: %w", err)
	}
	if options.X11Keymap == nil {
		return nil
	}
	const dir = "/etc/X11/xorg.conf.d"
	if err := makeDirs(args, dir); err != nil {
		return fmt.Errorf("set X11 keymap: %w", err)
	}
	text = fmt.Sprintf(xkbConfig, strings.Join(options.X11Keymap.Layouts, ","))
	if err := writeFile(args, dir+"/00-keyboard.conf", text); err != nil {
		return fmt.Errorf("set X11 keymap: %w", err)
	}
	return nil
}
