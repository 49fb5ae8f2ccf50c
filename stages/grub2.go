package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ossify/ossify/module"
)

type grub2Options struct {
	CompatVersion json.Number `json:"compat_version"`
	RootFS        *fsName     `json:"rootfs"`
	BootFS        *fsName     `json:"bootfs"`
	// RootFSUUID and BootFSUUID are what manifests had before rootfs and bootfs.
	RootFSUUID    string       `json:"root_fs_uuid"`
	BootFSUUID    string       `json:"boot_fs_uuid"`
	KernelOpts    string       `json:"kernel_opts"`
	Legacy        grubPlatform `json:"legacy"`
	UEFI          *grub2UEFI   `json:"uefi"`
	SavedEntry    string       `json:"saved_entry"`
	WriteDefaults *bool        `json:"write_defaults"`
	WriteCmdline  *bool        `json:"write_cmdline"`
	Ignition      bool         `json:"ignition"`
	Greenboot     bool         `json:"greenboot"`
	Config        grub2Config  `json:"config"`
}

type grub2UEFI struct {
	Vendor    string  `json:"vendor"`
	EFISrcDir *string `json:"efi_src_dir"`
	Install   bool    `json:"install"`
	Unified   bool    `json:"unified"`
}

type grub2Config struct {
	Default         *string     `json:"default"`
	DisableRecovery *bool       `json:"disable_recovery"`
	DisableSubmenu  *bool       `json:"disable_submenu"`
	Distributor     string      `json:"distributor"`
	Serial          string      `json:"serial"`
	Terminal        []string    `json:"terminal"`
	TerminalInput   []string    `json:"terminal_input"`
	TerminalOutput  []string    `json:"terminal_output"`
	Timeout         json.Number `json:"timeout"`
	TimeoutStyle    string      `json:"timeout_style"`
}

// grubPlatform is a platform of GRUB, or "" for none; true means the PC's BIOS.
type grubPlatform string

// UnmarshalJSON takes a name or a boolean.
func (p *grubPlatform) UnmarshalJSON(data []byte) error {
	switch string(data) {
	case "true":
		*p = "i386-pc"
		return nil
	case "false":
		*p = ""
		return nil
	}
	return json.Unmarshal(data, (*string)(p))
}

// grub2 configures GRUB to show the boot loader entries.
func grub2(_ context.Context, args *module.Args, options grub2Options) error {
	g := &grub2Tree{args: args, options: &options, config: "/boot/grub2/grub.cfg"}
	if err := g.nameFilesystems(); err != nil {
		return err
	}
	if options.Config.Timeout == "" {
		options.Config.Timeout = "0"
	}
	if on(options.WriteDefaults) {
		if err := g.writeDefaults(); err != nil {
			return fmt.Errorf("write /etc/default/grub: %w", err)
		}
	}
	if err := g.writeEnv(); err != nil {
		return fmt.Errorf("write /boot/grub2/grubenv: %w", err)
	}
	if options.UEFI != nil {
		if err := g.uefi(); err != nil {
			return err
		}
	}
	if err := writeFile(args, g.config, g.menu()); err != nil {
		return fmt.Errorf("write grub.cfg: %w", err)
	}
	if options.Legacy != "" {
		return copyGrubPlatform(args, string(options.Legacy), "/boot/grub2")
	}
	return nil
}

// grub2Tree is the tree that is worked on.
type grub2Tree struct {
	args       *module.Args
	options    *grub2Options
	root, boot fsName // boot is the filesystem with GRUB's files
	home       string // where GRUB's files are on it
	config     string // path of the main configuration in the tree
}

// hybrid tells whether one image is to start by BIOS and by UEFI.
func (g *grub2Tree) hybrid() bool {
	return g.options.UEFI != nil && g.options.Legacy != ""
}

// nameFilesystems sets root, boot and home.
func (g *grub2Tree) nameFilesystems() error {
	o := g.options
	g.root, g.home = fsName{UUID: o.RootFSUUID}, "/boot/"
	if o.RootFS != nil {
		g.root = fsName{UUID: o.RootFS.UUID, Label: o.RootFS.Label}
	}
	g.boot = g.root
	if o.BootFS != nil {
		g.boot, g.home = fsName{UUID: o.BootFS.UUID, Label: o.BootFS.Label}, "/"
	} else if o.BootFSUUID != "" {
		g.boot, g.home = fsName{UUID: o.BootFSUUID}, "/"
	}
	if g.root == (fsName{}) {
		return errors.New("rootfs has an empty label")
	}
	if g.boot == (fsName{}) {
		return errors.New("bootfs has an empty label")
	}
	return nil
}

// writeDefaults writes /etc/default/grub, for tools that make grub.cfg anew.
func (g *grub2Tree) writeDefaults() error {
	c := &g.options.Config
	var b strings.Builder
	set := func(key, value string) { fmt.Fprintf(&b, "GRUB_%s=%s\n", key, value) }
	quoted := func(key, value string) {
		if value != "" {
			set(key, `"`+value+`"`)
		}
	}
	words := func(key string, list []string) {
		if len(list) > 0 {
			set(key, `"`+strings.Join(list, " ")+`"`)
		}
	}
	set("CMDLINE_LINUX", `"`+g.options.KernelOpts+`"`)
	set("TIMEOUT", pythonNumber(c.Timeout))
	set("ENABLE_BLSCFG", "true")
	if c.DisableRecovery != nil {
		set("DISABLE_RECOVERY", strconv.FormatBool(*c.DisableRecovery))
	}
	if c.DisableSubmenu != nil {
		set("DISABLE_SUBMENU", strconv.FormatBool(*c.DisableSubmenu))
	}
	quoted("DISTRIBUTOR", c.Distributor)
	quoted("SERIAL_COMMAND", c.Serial)
	words("TERMINAL", c.Terminal)
	words("TERMINAL_INPUT", c.TerminalInput)
	words("TERMINAL_OUTPUT", c.TerminalOutput)
	if c.TimeoutStyle != "" {
		set("TIMEOUT_STYLE", c.TimeoutStyle)
	}
	if c.Default != nil {
		set("DEFAULT", *c.Default)
	}
	if err := makeDirs(g.args, "/etc/default"); err != nil {
		return err
	}
	return writeFile(g.args, "/etc/default/grub", b.String())
}

// writeEnv writes GRUB's environment block, a file of fixed size.
func (g *grub2Tree) writeEnv() error {
	const path = "/boot/grub2/grubenv"
	if err := makeDirs(g.args, filepath.Dir(path)); err != nil {
		return err
	}
	if g.hybrid() {
		// Packages link it to the EFI system partition; both ways of booting share one.
		entry, err := treeEntry(g.args, path)
		if err != nil {
			return err
		}
		if err := removeFile(entry); err != nil {
			return err
		}
	}
	block := "# GRUB Environment Block\n"
	if on(g.options.WriteCmdline) {
		block += fmt.Sprintf("kernelopts=root=%s %s\n", g.root.kernel(), g.options.KernelOpts)
	}
	if g.options.SavedEntry != "" {
		block += "saved_entry=" + g.options.SavedEntry + "\n"
	}
	free := grubEnvSize - utf8.RuneCountInString(block)
	if free < 0 {
		return fmt.Errorf("kernel_opts and saved_entry take %d characters more than the %d of the environment block: shorten them or set write_cmdline to false", -free, grubEnvSize)
	}
	return writeFile(g.args, path, block+strings.Repeat("#", free))
}

// uefi writes what the EFI system partition needs.
func (g *grub2Tree) uefi() error {
	u := g.options.UEFI
	if u.Install {
		source := buildESP
		if u.EFISrcDir != nil {
			source = *u.EFISrcDir
		}
		if err := copyLoaders(g.args, source, u.Vendor); err != nil {
			return err
		}
	}
	path := filepath.Join(buildESP, u.Vendor, "grub.cfg")
	dir, err := treeTarget(g.args, filepath.Dir(path))
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("vendor %s has no directory for grub.cfg: install its loaders in an earlier stage or set uefi.install: %w", u.Vendor, err)
	}
	if !g.hybrid() && !u.Unified {
		g.config = path
		return nil
	}
	if err := writeFile(g.args, path, g.redirect()); err != nil {
		return fmt.Errorf("write the vendor's grub.cfg: %w", err)
	}
	return nil
}
