package stages

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ossify/ossify/module"
)

// fsName is one way to name a filesystem.
type fsName struct {
	UUID   string `json:"uuid"`
	Label  string `json:"label"`
	Device string `json:"device"`
}

// kernel returns the value of root= on the kernel's command line.
func (n fsName) kernel() string {
	switch {
	case n.UUID != "":
		return "UUID=" + n.UUID
	case n.Label != "":
		return "LABEL=" + n.Label
	}
	return n.Device
}

// search returns the arguments of GRUB's search command. A device's name means
// nothing to GRUB: the root is then the filesystem that it read its menu from.
func (n fsName) search() string {
	switch {
	case n.UUID != "":
		return "--fs-uuid " + n.UUID
	case n.Label != "":
		return "--label " + n.Label
	}
	return n.Device
}

type grubEntry struct {
	ID      string `json:"id"`
	Default bool   `json:"default"`
	Kernel  string `json:"kernel"`
	Product struct {
		Name    string `json:"name"`
		Nick    string `json:"nick"`
		Version string `json:"version"`
	} `json:"product"`
}

func (e grubEntry) title() string {
	title := fmt.Sprintf("%s (%s) %s", e.Product.Name, e.Kernel, e.Product.Version)
	if e.Product.Nick != "" {
		title += " (" + e.Product.Nick + ")"
	}
	return title
}

func (e grubEntry) menuID() string {
	return "gnulinux-" + e.Kernel + "-advanced-" + e.ID
}

type grubConfig struct {
	Cmdline         string   `json:"cmdline"`
	Default         *string  `json:"default"`
	DisableRecovery *bool    `json:"disable_recovery"`
	DisableSubmenu  *bool    `json:"disable_submenu"`
	Distributor     string   `json:"distributor"`
	Serial          string   `json:"serial"`
	Terminal        []string `json:"terminal"`
	TerminalInput   []string `json:"terminal_input"`
	TerminalOutput  []string `json:"terminal_output"`
	Timeout         int      `json:"timeout"`
	TimeoutStyle    string   `json:"timeout_style"`
}

type grub2LegacyOptions struct {
	RootFS fsName  `json:"rootfs"`
	BootFS *fsName `json:"bootfs"`
	BIOS   *struct {
		Platform string `json:"platform"`
	} `json:"bios"`
	UEFI *struct {
		Vendor  string `json:"vendor"`
		Install bool   `json:"install"`
	} `json:"uefi"`
	WriteDefaults *bool       `json:"write_defaults"`
	Entries       []grubEntry `json:"entries"`
	Config        grubConfig  `json:"config"`
}

// grub2Legacy writes GRUB's configuration with one menu entry for each kernel.
func grub2Legacy(_ context.Context, args *module.Args, options grub2LegacyOptions) error {
	if options.RootFS.kernel() == "" || options.BootFS != nil && options.BootFS.kernel() == "" {
		return errors.New("uuid, label or device of rootfs and bootfs must not be empty")
	}
	if options.Config.TimeoutStyle == "" {
		options.Config.TimeoutStyle = "countdown"
	}
	debian, err := isDebian(args)
	if err != nil {
		return err
	}
	g := &grubTree{args: args, options: &options, debian: debian, home: "/boot/grub2"}
	if debian {
		g.home = "/boot/grub"
	}
	if on(options.WriteDefaults) {
		if err := g.write("/etc/default/grub", options.Config.defaults()); err != nil {
			return err
		}
	}
	env, err := options.env()
	if err != nil {
		return err
	}
	if err := g.write(g.home+"/grubenv", env); err != nil {
		return err
	}
	if options.UEFI != nil {
		if err := g.uefi(); err != nil {
			return err
		}
	}
	if options.BIOS != nil {
		return g.bios()
	}
	return nil
}

// on is the value of a switch that is on by default.
func on(v *bool) bool { return v == nil || *v }

// isDebian tells whether the tree's distribution keeps GRUB in /boot/grub and
// calls its initial RAM disk initrd.img.
func isDebian(args *module.Args) (bool, error) {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		path, err := treeTarget(args, name)
		if err != nil {
			return false, err
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		defer f.Close()
		found := false
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			key, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), "=")
			if key != "ID" && key != "ID_LIKE" {
				continue
			}
			for _, id := range strings.Fields(strings.Trim(value, `"'`)) {
				found = found || id == "debian" || id == "ubuntu"
			}
		}
		return found, lines.Err()
	}
	return false, nil
}

// defaults is /etc/default/grub.
func (c *grubConfig) defaults() string {
	var b strings.Builder
	set := func(key, value string) { fmt.Fprintf(&b, "GRUB_%s=%s\n", key, value) }
	quoted := func(key, value string) {
		if value != "" {
			set(key, `"`+value+`"`)
		}
	}
	set("TIMEOUT", strconv.Itoa(c.Timeout))
	set("CMDLINE_LINUX", `"`+c.Cmdline+`"`)
	set("DISABLE_SUBMENU", strconv.FormatBool(on(c.DisableSubmenu)))
	set("DISABLE_RECOVERY", strconv.FormatBool(on(c.DisableRecovery)))
	set("TIMEOUT_STYLE", c.TimeoutStyle)
	if c.Default != nil {
		set("DEFAULT", *c.Default)
	} else {
		set("DEFAULT", "saved")
	}
	quoted("DISTRIBUTOR", c.Distributor)
	quoted("SERIAL_COMMAND", c.Serial)
	quoted("TERMINAL", strings.Join(c.Terminal, " "))
	quoted("TERMINAL_INPUT", strings.Join(c.TerminalInput, " "))
	quoted("TERMINAL_OUTPUT", strings.Join(c.TerminalOutput, " "))
	return b.String()
}

// env is GRUB's environment block, a file of fixed size that GRUB writes to.
func (o *grub2LegacyOptions) env() (string, error) {
	block := "# GRUB Environment Block\n"
	saved := false
	for _, entry := range o.Entries {
		if !entry.Default {
			continue
		}
		if saved {
			return "", errors.New("more than one entry has default set: set it for one at most")
		}
		saved = true
		block += "saved_entry=" + entry.menuID() + "\n"
	}
	if len(block) > grubEnvSize {
		return "", fmt.Errorf("the default entry's id makes an environment block of %d bytes, GRUB has %d", len(block), grubEnvSize)
	}
	return block + strings.Repeat("#", grubEnvSize-len(block)), nil
}

// grubTree is the tree that is worked on.
type grubTree struct {
	args    *module.Args
	options *grub2LegacyOptions
	debian  bool
	home    string // GRUB's directory in the tree
}

// write writes a file of the tree with its directories. What was there is
// overwritten; a symbolic link keeps leading to the file.
func (g *grubTree) write(path, content string) error {
	target, err := treeTarget(g.args, path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return os.WriteFile(target, []byte(content), 0o644)
}

// bios writes grub.cfg and copies the build root's modules and font.
func (g *grubTree) bios() error {
	platform := g.options.BIOS.Platform
	suffix := ""
	// The 16-bit protocol, as osbuild has it; Debian's way is plain linux.
	if platform == "i386-pc" && !g.debian {
		suffix = "16"
	}
	config, err := g.config(suffix)
	if err != nil {
		return err
	}
	if err := g.write(g.home+"/grub.cfg", config); err != nil {
		return err
	}
	return copyGrubPlatform(g.args, platform, g.home)
}

// uefi writes grub.cfg beside the vendor's loader and, if asked, copies the
// loaders of the build root.
func (g *grubTree) uefi() error {
	vendor := g.options.UEFI.Vendor
	if strings.Contains(vendor, "/") || vendor == ".." || vendor == "." {
		return fmt.Errorf("vendor %q is not the name of a directory", vendor)
	}
	if g.options.UEFI.Install {
		if err := copyLoaders(g.args, buildESP, vendor); err != nil {
			return err
		}
	}
	suffix := ""
	if b := g.options.BIOS; b != nil && b.Platform == "i386-pc" && !g.debian {
		suffix = "efi"
	}
	config, err := g.config(suffix)
	if err != nil {
		return err
	}
	return g.write(filepath.Join(buildESP, vendor, "grub.cfg"), config)
}
