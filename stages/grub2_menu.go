package stages

import (
	"fmt"
	"strings"
)

// grub2Choice chooses the entry that boots: next_entry once, or saved_entry.
const grub2Choice = `
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi
`

// grub2Ignition looks for the mark that Ignition has to run; %[1]s is where
// /boot is on GRUB's filesystem.
const grub2Ignition = `
set ignition_firstboot=""
if [ -f "%[1]signition.firstboot" ]; then
    set ignition_network_kcmdline=''

    # This file may set ignition_network_kcmdline.
    source "%[1]signition.firstboot"

    set ignition_firstboot="ignition.firstboot ${ignition_network_kcmdline}"
fi
`

// grub2Greenboot counts the boots left until the other deployment is booted.
const grub2Greenboot = `
insmod increment
if [ -n "${boot_counter}" -a "${boot_success}" = "0" ]; then
  if  [ "${boot_counter}" = "0" -o "${boot_counter}" = "-1" ]; then
    set default=1
    set boot_counter=-1
  else
    decrement boot_counter
  fi
  save_env boot_counter
fi

set boot_success=0
save_env boot_success
`

// menu is the main grub.cfg.
func (g *grub2Tree) menu() string {
	o := g.options
	var b strings.Builder
	fmt.Fprintf(&b, "\nset timeout=%s\n\nload_env\n\n", pythonNumber(o.Config.Timeout))
	b.WriteString(grub2Choice)
	fmt.Fprintf(&b, "\nsearch --no-floppy --set=root %s\nset boot=${root}\n", g.boot.search())
	b.WriteString("function load_video {\n  insmod all_video\n}\n")
	if o.Ignition {
		fmt.Fprintf(&b, grub2Ignition, g.home)
	}
	if o.Ignition && o.Greenboot {
		b.WriteString("\n")
	}
	if o.Greenboot {
		b.WriteString(grub2Greenboot)
	}
	b.WriteString(g.devices() + "\nblscfg\n")
	return b.String()
}

// devices sets up consoles. compat_version 1 leaves the name of a variable, which
// is empty in GRUB, in the place of each option that is not set.
func (g *grub2Tree) devices() string {
	c := &g.options.Config
	commands := []struct{ name, command string }{
		{"serial", c.Serial},
		{"terminal_input", command("terminal_input", c.TerminalInput)},
		{"terminal_output", command("terminal_output", c.TerminalOutput)},
	}
	version, _ := g.options.CompatVersion.Float64()
	var b strings.Builder
	for _, item := range commands {
		switch {
		case item.command != "":
			b.WriteString("\n" + item.command)
		case version < 2:
			b.WriteString("${" + item.name + "}")
		}
	}
	return b.String()
}

// command is a line of GRUB's script, or "" without words.
func command(name string, words []string) string {
	if len(words) == 0 {
		return ""
	}
	return name + " " + strings.Join(words, " ")
}

// redirect is the grub.cfg of an EFI system partition that leads to the main one.
func (g *grub2Tree) redirect() string {
	return fmt.Sprintf(`
search --no-floppy --set prefix --file %[1]sgrub2/grub.cfg
set prefix=($prefix)%[1]sgrub2
configfile $prefix/grub.cfg
`, g.home)
}
