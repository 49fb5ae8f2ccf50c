package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/ossify/ossify/module"
)

type xorrisofsOptions struct {
	Filename string `json:"filename"`
	VolID    string `json:"volid"`
	SysID    string `json:"sysid"`
	Pub      string `json:"pub"`
	AppID    string `json:"appid"`
	Prep     string `json:"prep"`
	ISOLevel int    `json:"isolevel"`
	Boot     *struct {
		Image      string `json:"image"`
		Catalog    string `json:"catalog"`
		NoBootInfo bool   `json:"nobootinfo"`
	} `json:"boot"`
	EFI           string   `json:"efi"`
	Exclude       []string `json:"exclude"`
	GRUB2MBR      *string  `json:"grub2mbr"`
	IsohybridMBR  string   `json:"isohybridmbr"`
	ChrpBoot      *bool    `json:"chrp_boot"`
	RationalRock  bool     `json:"rational_rock"`
	Untranslated  bool     `json:"untranslated_filenames"`
	FullFilenames bool     `json:"full_filenames"`
	VolSet        string   `json:"volset"`
}

// xorrisofs makes an ISO of the input "tree". It boots as the options say: on
// POWER if they have chrp_boot, whatever it is; by GRUB if they have grub2mbr;
// else by syslinux.
func xorrisofs(ctx context.Context, args *module.Args, options xorrisofsOptions) error {
	if options.Filename == "" || options.VolID == "" {
		return errors.New(`options lack "filename" or "volid"`)
	}
	source := args.Inputs["tree"].Path
	if source == "" {
		return errors.New(`the stage lacks the input "tree"`)
	}
	if err := refuseDevices(args.Inputs["tree"]); err != nil {
		return err
	}
	target, err := treeTarget(args, options.Filename)
	if err != nil {
		return err
	}
	var argv []string
	switch {
	case options.ChrpBoot != nil:
		argv, err = options.powerArguments()
	case options.GRUB2MBR != nil:
		argv, err = options.grubArguments(source)
	default:
		argv = options.syslinuxArguments()
	}
	if err != nil {
		return err
	}
	for _, path := range options.Exclude {
		argv = append(argv, "-exclude", path)
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.xorrisofs", "xorrisofs", append(argv, "-o", target, source)...)
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, utf8Locale) // for the names of Joliet
	if err := run(cmd); err != nil {
		return fmt.Errorf("make %q: %w", options.Filename, err)
	}
	return nil
}

// nameArguments are what the ISO says of itself.
func (o *xorrisofsOptions) nameArguments() []string {
	var argv []string
	if o.ISOLevel != 0 {
		argv = append(argv, "-iso-level", strconv.Itoa(o.ISOLevel))
	}
	argv = append(argv, "-V", o.VolID)
	for _, name := range []struct{ flag, text string }{
		{"-sysid", o.SysID}, {"-publisher", o.Pub}, {"-appid", o.AppID}, {"-preparer", o.Prep},
	} {
		if name.text != "" {
			argv = append(argv, name.flag, name.text)
		}
	}
	return argv
}

// Types of partitions: the EFI system partition, and Microsoft's basic data.
const (
	efiSystemPartition = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	basicDataPartition = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
)

// grubArguments are for an ISO that BIOS boots from the MBR or the boot image,
// and UEFI from a partition behind the ISO.
func (o *xorrisofsOptions) grubArguments(source string) ([]string, error) {
	argv := append([]string{"-verbose", "-rock", "-joliet"}, o.nameArguments()...)
	if _, err := os.Stat(*o.GRUB2MBR); err != nil {
		return nil, fmt.Errorf("grub2mbr %q is not in the build root: %w", *o.GRUB2MBR, err)
	}
	argv = append(argv, "--grub2-mbr", *o.GRUB2MBR)
	if o.EFI != "" {
		image, err := location{root: source, path: o.EFI}.target()
		if err != nil {
			return nil, err
		}
		argv = append(argv, "-partition_offset", "16", "-appended_part_as_gpt",
			"-append_partition", "2", efiSystemPartition, image)
	}
	argv = append(argv, "-iso_mbr_part_type", basicDataPartition)
	if o.Boot != nil {
		argv = append(argv, "-b", o.Boot.Image, "-c", o.Boot.Catalog, "--boot-catalog-hide", "-no-emul-boot", "-boot-load-size", "4")
		if !o.Boot.NoBootInfo {
			argv = append(argv, "-boot-info-table", "--grub2-boot-info")
		}
		if o.EFI != "" {
			argv = append(argv, "-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::")
		}
	}
	return append(argv, "-no-emul-boot"), nil
}

// powerArguments are for an ISO that the firmware of POWER machines boots.
func (o *xorrisofsOptions) powerArguments() ([]string, error) {
	if o.EFI != "" {
		return nil, errors.New("efi and chrp_boot do not go together: POWER machines have no UEFI")
	}
	argv := append([]string{"-verbose", "-rock", "-joliet"}, o.nameArguments()...)
	for _, choice := range []struct {
		flag string
		on   bool
	}{
		{"-rational-rock", o.RationalRock}, {"-untranslated-filenames", o.Untranslated}, {"-full-iso9660-filenames", o.FullFilenames},
	} {
		if choice.on {
			argv = append(argv, choice.flag)
		}
	}
	if o.VolSet != "" {
		argv = append(argv, "-volset", o.VolSet, "-volset-size", "1", "-volset-seqno", "1")
	}
	if *o.ChrpBoot {
		argv = append(argv, "-chrp-boot")
	}
	return argv, nil
}

// syslinuxArguments are for an ISO that BIOS boots by ISOLINUX, and UEFI from an
// image in the ISO.
func (o *xorrisofsOptions) syslinuxArguments() []string {
	argv := append([]string{"-verbose"}, o.nameArguments()...)
	if o.IsohybridMBR != "" {
		argv = append(argv, "-isohybrid-mbr", o.IsohybridMBR)
	}
	if o.Boot != nil {
		argv = append(argv, "-b", o.Boot.Image, "-c", o.Boot.Catalog, "--boot-catalog-hide", "-boot-load-size", "4")
		if !o.Boot.NoBootInfo {
			argv = append(argv, "-boot-info-table")
		}
		argv = append(argv, "-no-emul-boot")
	}
	argv = append(argv, "-rock", "-joliet")
	if o.EFI != "" {
		argv = append(argv, "-eltorito-alt-boot", "-e", o.EFI, "-no-emul-boot")
		if o.IsohybridMBR != "" {
			argv = append(argv, "-isohybrid-gpt-basdat")
		}
	}
	return argv
}
