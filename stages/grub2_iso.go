package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pattern"
)

type grub2IsoOptions struct {
	Product struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"product"`
	Kernel struct {
		Dir  string   `json:"dir"`
		Opts []string `json:"opts"`
	} `json:"kernel"`
	ISOLabel        string      `json:"isolabel"`
	Architectures   []string    `json:"architectures"`
	Vendor          *string     `json:"vendor"`
	FIPS            bool        `json:"fips"`
	Troubleshooting *bool       `json:"troubleshooting"`
	Test            *bool       `json:"test"`
	Install         *bool       `json:"install"`
	Custom          []isoCustom `json:"custom"`
	Config          struct {
		Timeout json.Number  `json:"timeout"`
		Default *json.Number `json:"default"`
	} `json:"config"`
}

// isoCustom is a menu entry as the manifest has it.
type isoCustom struct {
	Name   string `json:"name"`
	Linux  string `json:"linux"`
	Initrd string `json:"initrd"`
}

// isoESP is where firmware looks for loaders on a medium.
const isoESP = "/EFI/BOOT"

// grub2Iso makes the directory EFI of an installation medium.
func grub2Iso(_ context.Context, args *module.Args, options grub2IsoOptions) error {
	if options.Architectures == nil || options.Vendor == nil {
		return errors.New("architectures and vendor are needed to find the loaders of the build root")
	}
	if err := installISOLoaders(args, options.Architectures, *options.Vendor); err != nil {
		return err
	}
	if err := writeFile(args, isoESP+"/grub.cfg", options.menu()); err != nil {
		return fmt.Errorf("write grub.cfg: %w", err)
	}
	if slices.Contains(options.Architectures, "IA32") {
		return copyISOConfig(args)
	}
	return nil
}

// installISOLoaders makes EFI/BOOT with the vendor's loaders of the build root
// for each architecture and GRUB's font.
func installISOLoaders(args *module.Args, architectures []string, vendor string) error {
	if err := makeNewDir(args, isoESP); err != nil {
		return fmt.Errorf("make the directory of loaders: %w", err)
	}
	for _, arch := range architectures {
		arch = strings.ToLower(arch)
		loaders := [][2]string{
			{"shim" + arch + ".efi", "BOOT" + strings.ToUpper(arch) + ".EFI"},
			{"mm" + arch + ".efi", "mm" + arch + ".efi"},
			{"gcd" + arch + ".efi", "grub" + arch + ".efi"},
		}
		for _, loader := range loaders {
			source := filepath.Join(buildESP, vendor, loader[0])
			if err := copyBuildFile(args, source, filepath.Join(isoESP, loader[1])); err != nil {
				return fmt.Errorf("install loaders of the build root for %s: %w", arch, err)
			}
		}
	}
	return copyGrubFont(args, isoESP+"/fonts")
}

// copyISOConfig copies grub.cfg to the name under which Macs look for it.
func copyISOConfig(args *module.Args) error {
	config, err := treeTarget(args, isoESP+"/grub.cfg")
	if err != nil {
		return err
	}
	return copyBuildFile(args, config, isoESP+"/BOOT.cfg")
}

// menu is grub.cfg.
func (o *grub2IsoOptions) menu() string {
	kernel, initrd := pythonJoin(o.Kernel.Dir, "vmlinuz"), pythonJoin(o.Kernel.Dir, "initrd.img")
	opts := strings.Join(o.Kernel.Opts, " ")
	timeout, chosen := "60", ""
	if o.Config.Timeout != "" {
		timeout = pythonNumber(o.Config.Timeout)
	}
	if o.Config.Default != nil {
		chosen = fmt.Sprintf("set default=\"%s\"\n", pythonNumber(*o.Config.Default))
	}
	product := o.Product.Name + " " + o.Product.Version
	entry := func(title, words string) string {
		return isoEntry("", title, kernel+" "+opts+" "+words, initrd)
	}
	var custom, install, test, fips, trouble string
	for _, c := range o.Custom {
		expand := func(text string) string {
			return expandPython(text, map[string]string{
				"version": o.Product.Version, "product": o.Product.Name, "kernelpath": kernel, "initrdpath": initrd,
				"isolabel": o.ISOLabel, "root": opts, "timeout": timeout, "defaultentry": chosen, "customentries": custom,
				"installentry": "", "testentry": "", "fipsentry": "", "troubleshootingentry": "",
			})
		}
		custom += isoEntry("", expand(c.Name), expand(c.Linux), expand(c.Initrd))
	}
	if on(o.Install) {
		install = entry("Install "+product, "quiet")
	}
	if on(o.Test) {
		test = entry("Test this media & install "+product, "rd.live.check quiet")
	}
	if o.FIPS {
		fips = entry("Install "+product+" in FIPS mode", "quiet fips=1") + "\n"
	}
	if on(o.Troubleshooting) {
		trouble = "\nsubmenu 'Troubleshooting -->' {" +
			isoEntry("\t", "Install "+product+" in basic graphics mode", kernel+" "+opts+" nomodeset quiet", initrd) +
			isoEntry("\t", "Rescue a "+o.Product.Name+" system", kernel+" "+opts+" inst.rescue quiet", initrd) +
			"\n}"
	}
	var b strings.Builder
	b.WriteString(chosen + "\nfunction load_video {\n")
	for _, name := range []string{"efi_gop", "efi_uga", "video_bochs", "video_cirrus", "all_video"} {
		b.WriteString("  insmod " + name + "\n")
	}
	b.WriteString("}\n\nload_video\nset gfxpayload=keep\n")
	for _, name := range []string{"gzio", "part_gpt", "ext2"} {
		b.WriteString("insmod " + name + "\n")
	}
	fmt.Fprintf(&b, "\nset timeout=%s\n\nsearch --no-floppy --set=root -l '%s'\n\n", timeout, o.ISOLabel)
	for _, entries := range []string{custom, install, test, fips, trouble} {
		b.WriteString(entries + "\n")
	}
	return b.String()
}

// isoEntry is a menu entry, after a line end.
func isoEntry(indent, title, linux, initrd string) string {
	return fmt.Sprintf("\n%[1]smenuentry '%[2]s' --class fedora --class gnu-linux --class gnu --class os {\n%[1]s\tlinux %[3]s\n%[1]s\tinitrd %[4]s\n%[1]s}",
		indent, title, linux, initrd)
}

var pythonVariable = pattern.New(`\$(?:\$|[_A-Za-z][_A-Za-z0-9]*|\{[_A-Za-z][_A-Za-z0-9]*\})`)

// expandPython puts values in the place of $name and ${name}, and $ in that of
// $$, as Python's string.Template.safe_substitute does: other names stay.
func expandPython(text string, values map[string]string) string {
	return pythonVariable().ReplaceAllStringFunc(text, func(found string) string {
		if found == "$$" {
			return "$"
		}
		if value, ok := values[strings.Trim(found, "${}")]; ok {
			return value
		}
		return found
	})
}

// pythonJoin joins a directory and a name as Python's os.path.join does.
func pythonJoin(dir, name string) string {
	if dir == "" || strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}
