package stages

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
)

type grub2InstOptions struct {
	Filename string `json:"filename"`
	Platform string `json:"platform"`
	// Location is the sector that the core image begins at; 0 means that the
	// file is to be the core image.
	Location int64 `json:"location"`
	Core     struct {
		PartLabel  string `json:"partlabel"`
		Filesystem string `json:"filesystem"`
		Binary     string `json:"binary"`
	} `json:"core"`
	Prefix struct {
		PartLabel string `json:"partlabel"`
		// Number counts partitions from 0; it is nil if the prefix is a path only.
		Number *json.Number `json:"number"`
		Path   string       `json:"path"`
	} `json:"prefix"`
	// SectorSize is in bytes.
	SectorSize json.Number `json:"sector-size"`
}

// Of boot.img, from GRUB's include/grub/i386/pc/boot.h, and of the core image's
// first sector.
const (
	grubBootCode    = 440  // bytes before the disk's id
	grubBootKernel  = 0x5c // where it has the core image's first sector
	grubCoreSectors = 500  // where the core image has its second sector
)

// grub2Inst makes a core image of GRUB and installs it in a disk image.
func grub2Inst(ctx context.Context, args *module.Args, options grub2InstOptions) (err error) {
	prefix, err := options.prefix()
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "grub2-inst-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	path := filepath.Join(scratch, "core.img")
	if err := options.mkimage(ctx, args, prefix, path); err != nil {
		return err
	}
	core, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the core image: %w", err)
	}
	if options.Location == 0 {
		if err := writeFile(args, options.Filename, string(core)); err != nil {
			return fmt.Errorf("write the core image: %w", err)
		}
		return nil
	}
	if err := options.embed(args, core); err != nil {
		return fmt.Errorf("install GRUB in %s: %w", options.Filename, err)
	}
	return nil
}

// prefix is GRUB's directory, in its own notation.
func (o *grub2InstOptions) prefix() (string, error) {
	if o.Prefix.Number == nil {
		return o.Prefix.Path, nil
	}
	number, err := o.Prefix.Number.Int64()
	if err != nil {
		return "", fmt.Errorf("prefix.number must be a whole number, not %s", *o.Prefix.Number)
	}
	label := "gpt"
	if o.Prefix.PartLabel == "dos" {
		label = "msdos"
	}
	return fmt.Sprintf("(,%s%d)/%s", label, number+1, strings.TrimLeft(o.Prefix.Path, "/")), nil
}

// mkimage makes the core image with the modules that find and read prefix.
func (o *grub2InstOptions) mkimage(ctx context.Context, args *module.Args, prefix, output string) error {
	format := o.Platform
	var modules []string
	if o.Platform == "i386-pc" {
		modules = append(modules, "biosdisk")
	}
	if o.Core.PartLabel == "dos" {
		modules = append(modules, "part_msdos")
	} else {
		modules = append(modules, "part_gpt")
	}
	switch o.Core.Filesystem {
	case "ext4":
		modules = append(modules, "ext2")
	case "iso9660":
		modules = append(modules, "iso9660")
		format = "i386-pc-eltorito"
	default:
		modules = append(modules, o.Core.Filesystem)
	}
	tool := o.Core.Binary
	if tool == "" {
		tool = "grub2-mkimage"
	}
	argv := append([]string{"--verbose", "--directory", filepath.Join(grubLibrary, o.Platform), "--prefix", prefix,
		"--format", format, "--compression", "auto", "--output", output}, modules...)
	cmd, err := hostCommand(ctx, args, "org.osbuild.grub2.inst", tool, argv...)
	var missing *module.MissingTool
	if errors.As(err, &missing) && tool == "grub2-mkimage" {
		return fmt.Errorf(`%w, or set core.binary to "grub-mkimage", as Debian calls it`, err)
	}
	if err != nil {
		return err
	}
	return run(cmd)
}

// embed writes the core image to its place and, for a PC, boot code that loads
// it to the first sector.
func (o *grub2InstOptions) embed(args *module.Args, core []byte) (err error) {
	sectorSize := int64(512)
	if o.SectorSize != "" {
		if sectorSize, err = o.SectorSize.Int64(); err != nil {
			return fmt.Errorf("sector-size must be a whole number, not %s", o.SectorSize)
		}
	}
	path, err := treeTarget(args, o.Filename)
	if err != nil {
		return err
	}
	image, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	start := o.Location * sectorSize
	if _, err := image.WriteAt(core, start); err != nil {
		return err
	}
	if o.Platform != "i386-pc" {
		return nil
	}
	if start > 512 {
		// Not in the gap after the MBR, where the core image expects to be.
		if err := writeSector(image, start+grubCoreSectors, o.Location+1); err != nil {
			return err
		}
	}
	boot, err := os.ReadFile(filepath.Join(grubLibrary, o.Platform, "boot.img"))
	if err != nil {
		return fmt.Errorf("the build root's GRUB is incomplete: %w", err)
	}
	// Beyond the code there are the disk's id and partitions.
	if _, err := image.WriteAt(boot[:min(len(boot), grubBootCode)], 0); err != nil {
		return err
	}
	return writeSector(image, grubBootKernel, o.Location)
}

// writeSector writes the number of a sector at an offset.
func writeSector(image *os.File, offset, sector int64) error {
	_, err := image.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(sector)), offset)
	return err
}
