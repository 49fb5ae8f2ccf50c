package stages

import (
	"fmt"
	"os"
	"strings"
)

// grubSaved chooses the entry that boots: the one-time choice of grub-reboot,
// or the saved one, which also comes back after a one-time choice.
const grubSaved = `
load_env
if [ "${next_entry}" ]; then
  set default="${next_entry}"
  set next_entry=
  save_env next_entry
  set boot_once=true
else
  set default="${saved_entry}"
fi
if [ "${prev_saved_entry}" ]; then
  set saved_entry="${prev_saved_entry}"
  save_env saved_entry
  set prev_saved_entry=
  save_env prev_saved_entry
  set boot_once=true
fi

function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
`

// config is grub.cfg. suffix is that of the commands linux and initrd.
func (g *grubTree) config(suffix string) (string, error) {
	o := g.options
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by the stage org.osbuild.grub2.legacy\nset timeout=%d\n%s", o.Config.Timeout, grubSaved)
	if o.Config.Serial != "" {
		fmt.Fprintln(&b, o.Config.Serial)
	}
	if len(o.Config.TerminalInput) > 0 {
		fmt.Fprintln(&b, "terminal_input", strings.Join(o.Config.TerminalInput, " "))
	}
	if len(o.Config.TerminalOutput) > 0 {
		fmt.Fprintln(&b, "terminal_output", strings.Join(o.Config.TerminalOutput, " "))
	}
	boot, dir := o.RootFS, "/boot/"
	if o.BootFS != nil {
		boot, dir = *o.BootFS, "/"
	}
	cmdline := strings.TrimSpace("root=" + o.RootFS.kernel() + " " + o.Config.Cmdline)
	for _, entry := range o.Entries {
		initrd, err := g.initrd(entry.Kernel)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\nmenuentry %s --class gnu-linux --class gnu --class os --unrestricted --id %s {\n", grubQuote(entry.title()), grubQuote(entry.menuID()))
		fmt.Fprintf(&b, "  insmod all_video\n  set gfxpayload=keep\n")
		// A device's name means nothing to GRUB; its root is then the
		// filesystem that this file was read from.
		if search := boot.search(); search != "" {
			fmt.Fprintf(&b, "  search --no-floppy --set=root %s\n", search)
		}
		fmt.Fprintf(&b, "  linux%s %svmlinuz-%s %s\n", suffix, dir, entry.Kernel, cmdline)
		fmt.Fprintf(&b, "  initrd%s %s%s\n}\n", suffix, dir, initrd)
	}
	return b.String(), nil
}

// initrd is the name of a kernel's initial RAM disk: the one that the tree
// has, or else the one that its distribution would make.
func (g *grubTree) initrd(kernel string) (string, error) {
	names := []string{"initramfs-" + kernel + ".img", "initrd.img-" + kernel}
	if g.debian {
		names[0], names[1] = names[1], names[0]
	}
	for _, name := range names {
		path, err := treeTarget(g.args, "/boot/"+name)
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err == nil {
			return name, nil
		}
	}
	return names[0], nil
}

// grubQuote quotes text for GRUB's script, as a shell would.
func grubQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
