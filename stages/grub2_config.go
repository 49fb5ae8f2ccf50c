package stages

import (
	"fmt"
	"os"
	"strings"
)

// grubHead is grub.cfg before its entries, byte for byte as osbuild writes it: the
// timeout, and which entry boots. That is the one-time choice of grub-reboot, or the
// saved one, which also comes back after a one-time choice. The verb at the end
// stands for terminals.
const grubHead = `
# Created by osbuild

set timeout=%d

# load the grubenv file
load_env

# selection of the next boot entry
if [ "${next_entry}" ] ; then
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
%s
`

// config is grub.cfg. suffix is that of the commands linux and initrd.
func (g *grubTree) config(suffix string) (string, error) {
	o := g.options
	boot, dir := o.RootFS, "/boot/"
	if o.BootFS != nil {
		boot, dir = *o.BootFS, "/"
	}
	var b strings.Builder
	fmt.Fprintf(&b, grubHead, o.Config.Timeout, o.Config.terminals())
	for _, entry := range o.Entries {
		initrd, err := g.initrd(entry.Kernel)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\nmenuentry %s --class red --class gnu-linux --class gnu --class os --unrestricted --id %s {\n", grubQuote(entry.title()), grubQuote(entry.menuID()))
		fmt.Fprintf(&b, "\tinsmod all_video\n\tset gfxpayload=keep\n")
		fmt.Fprintf(&b, "\tsearch --no-floppy --set=root %s\n", boot.search())
		fmt.Fprintf(&b, "\tlinux%s %svmlinuz-%s root=%s %s\n", suffix, dir, entry.Kernel, o.RootFS.kernel(), o.Config.Cmdline)
		fmt.Fprintf(&b, "\tinitrd%s %s%s\n}\n", suffix, dir, initrd)
	}
	return b.String() + "\n", nil
}

// terminals are the commands that set up serial line and terminals, each after a
// line end. One that is not set is a variable, as osbuild has it, which GRUB knows
// nothing of and drops.
func (c *grubConfig) terminals() string {
	serial, input, output := "${serial}", "${terminal_input}", "${terminal_output}"
	if c.Serial != "" {
		serial = "\n" + c.Serial
	}
	if len(c.TerminalInput) > 0 {
		input = "\nterminal_input " + strings.Join(c.TerminalInput, " ")
	}
	if len(c.TerminalOutput) > 0 {
		output = "\nterminal_output " + strings.Join(c.TerminalOutput, " ")
	}
	return serial + input + output
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
