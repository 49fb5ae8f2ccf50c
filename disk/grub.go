package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// The platforms of GRUB that can be installed.
const (
	GrubBIOS = "i386-pc"
	GrubUEFI = "x86_64-efi"
)

// Bootloader is GRUB 2 for one or both platforms. The tree needs no files of
// GRUB but the configuration: all modules are built into the images.
type Bootloader struct {
	// Platforms are GrubBIOS (a BIOS boot partition is needed in a GPT) and
	// GrubUEFI (an EFI system partition with vfat is needed).
	Platforms []string
	// Config is the absolute path in the tree of the configuration that is
	// loaded; its directory becomes GRUB's prefix.
	Config string
}

// Offsets in boot.img, from GRUB's include/grub/i386/pc/boot.h, and in the core
// image's first sector.
const (
	bootCode        = 440  // bytes of boot.img before the disk's id
	bootKernel      = 0x5c // where the core image starts, in sectors
	bootDriveCheck  = 0x66 // a jump over the check for BIOSes that pass a wrong drive
	coreBlockList   = 0x1f4
	coreLoadSegment = 0x820
)

const (
	grubLibrary = "/usr/lib/grub"
	// uefiDefault is what firmware starts from a disk it knows nothing of.
	uefiDefault = "/EFI/BOOT/BOOTX64.EFI"
)

// Modules of every image: what a grub.cfg made by grub-mkconfig or by
// org.osbuild.grub2.legacy uses.
var grubModules = []string{
	"part_gpt", "part_msdos", "ext2", "fat", "xfs",
	"search", "search_fs_uuid", "search_label", "search_fs_file",
	"normal", "configfile", "linux", "boot", "loadenv",
	"serial", "terminal", "terminfo", "gfxterm", "font", "all_video",
	"gzio", "test", "true", "echo", "sleep", "ls", "cat", "regexp", "probe",
	"minicmd", "halt", "reboot",
}

// Modules of one platform, and such as exist only in some distributions.
var (
	grubPlatform = map[string][]string{
		GrubBIOS: {"biosdisk", "linux16", "vga_text"},
		GrubUEFI: {"efi_gop", "efi_uga", "efifwsetup"},
	}
	grubOptional = []string{"linuxefi", "blscfg", "increment", "xzio", "zstd", "lzopio"}
)

func (b *Bootloader) has(platform string) bool {
	if b == nil {
		return false
	}
	for _, p := range b.Platforms {
		if p == platform {
			return true
		}
	}
	return false
}

// check refuses a boot loader that the layout has no place for.
func (b *Bootloader) check(l *Layout) error {
	if b == nil {
		return nil
	}
	if len(b.Platforms) == 0 {
		return errors.New("boot loader without a platform: want i386-pc, x86_64-efi or both")
	}
	if !path.IsAbs(b.Config) || strings.ContainsAny(b.Config, " \t\n'\"\\$;{}#") {
		return fmt.Errorf("path %q of grub's configuration is not an absolute path without blanks and quotes", b.Config)
	}
	for _, platform := range b.Platforms {
		switch platform {
		case GrubBIOS:
			if _, _, err := l.corePlace(); err != nil {
				return err
			}
		case GrubUEFI:
			if l.esp() == nil {
				return fmt.Errorf("grub for x86_64-efi needs an EFI system partition (type %s, or ef in an mbr) with a vfat filesystem", gptESP)
			}
		default:
			return fmt.Errorf("grub platform %q is not supported: want i386-pc or x86_64-efi", platform)
		}
	}
	return nil
}

// esp returns the first EFI system partition with a vfat, or nil.
func (l *Layout) esp() *Partition {
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if l.isESP(p) && p.Filesystem != nil && p.Filesystem.Type == "vfat" {
			return p
		}
	}
	return nil
}

// GrubDirectory is where a build root has GRUB's modules for a platform.
func GrubDirectory(platform string) string { return filepath.Join(grubLibrary, platform) }

// corePlace returns the sectors for the BIOS core image: the BIOS boot
// partition, or in an MBR the gap before the first partition.
func (l *Layout) corePlace() (start, count int64, err error) {
	if l.TableType == GPT {
		for _, p := range l.Partitions {
			if p.Type == gptBIOSBoot {
				return p.Start, p.Size, nil
			}
		}
		return 0, 0, fmt.Errorf("grub for i386-pc needs a BIOS boot partition in a gpt: add one of type %s with 1 MiB", gptBIOSBoot)
	}
	first := l.Size / sectorSize
	for _, p := range l.Partitions {
		first = min(first, p.Start)
	}
	return 1, first - 1, nil
}

// mkimage makes an image of GRUB in scratch that loads the configuration from
// the filesystem that holds it, found by its UUID, and returns its path.
func (t *tool) mkimage(ctx context.Context, l *Layout, b *Bootloader, platform, scratch string) (string, error) {
	dir := filepath.Join(grubLibrary, platform)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the build root has no %s: install grub-pc-bin (BIOS) or grub-efi-amd64-bin (UEFI), or on Fedora grub2-pc-modules or grub2-efi-x64-modules", dir)
	}
	program, err := t.find("grub-mkimage", "grub2-mkimage")
	if err != nil {
		return "", err
	}
	part, inside := l.holder(path.Clean(b.Config))
	prefix := path.Dir(inside)
	early := fmt.Sprintf("search.fs_uuid %s root\nset prefix=($root)%s\nnormal ($root)%s\n", part.Filesystem.UUID, prefix, inside)
	config := filepath.Join(scratch, platform+".cfg")
	if err := os.WriteFile(config, []byte(early), 0o600); err != nil {
		return "", err
	}
	image := filepath.Join(scratch, platform+".img")
	args := []string{"-O", platform, "-d", dir, "-p", prefix, "-c", config, "-o", image}
	args = append(args, grubModules...)
	args = append(args, grubPlatform[platform]...)
	if part.Filesystem.Type == "btrfs" {
		args = append(args, "btrfs")
	}
	for _, module := range grubOptional {
		if _, err := os.Stat(filepath.Join(dir, module+".mod")); err == nil {
			args = append(args, module)
		}
	}
	if err := t.runPath(ctx, nil, nil, program, args...); err != nil {
		return "", err
	}
	// The image's time would end up in the EFI system partition.
	return image, setTime(image, t.epoch)
}

// embed puts boot.img and a core image into the raw image, as grub-bios-setup
// would.
func embed(raw *os.File, l *Layout, core string) error {
	image, err := os.ReadFile(core)
	if err != nil {
		return err
	}
	boot, err := os.ReadFile(filepath.Join(grubLibrary, GrubBIOS, "boot.img"))
	if err != nil {
		return fmt.Errorf("the build root's grub for i386-pc is incomplete: %w", err)
	}
	start, room, err := l.corePlace()
	if err != nil {
		return err
	}
	if err := patchCore(&image, start, room); err != nil {
		return err
	}
	if len(boot) < sectorSize {
		return fmt.Errorf("boot.img of grub has %d bytes, not %d", len(boot), sectorSize)
	}
	binary.LittleEndian.PutUint64(boot[bootKernel:], uint64(start))
	// Two nops instead of the jump: this is a hard disk, so check.
	boot[bootDriveCheck], boot[bootDriveCheck+1] = 0x90, 0x90
	if _, err := raw.WriteAt(boot[:bootCode], 0); err != nil {
		return err
	}
	_, err = raw.WriteAt(image, start*sectorSize)
	return err
}

// patchCore pads a core image to whole sectors and tells its first sector
// where the others are.
func patchCore(image *[]byte, start, room int64) error {
	p := *image
	if pad := len(p) % sectorSize; pad != 0 {
		p = append(p, make([]byte, sectorSize-pad)...)
	}
	sectors := int64(len(p) / sectorSize)
	if sectors > room {
		return fmt.Errorf("grub's core image needs %d sectors, but there are %d: start the first partition at sector %d or later, or enlarge the BIOS boot partition", sectors, room, alignment)
	}
	if sectors < 2 {
		return fmt.Errorf("grub's core image has only %d bytes", len(*image))
	}
	le := binary.LittleEndian
	le.PutUint64(p[coreBlockList:], uint64(start+1))
	le.PutUint16(p[coreBlockList+8:], uint16(sectors-1))
	le.PutUint16(p[coreBlockList+10:], coreLoadSegment)
	*image = p
	return nil
}
