package stages

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

const (
	grubLibrary = "/usr/lib/grub"
	grubFont    = "/usr/share/grub/unicode.pf2"
	grubEnvSize = 1024
	buildESP    = "/boot/efi/EFI"
)

// copyGrubPlatform copies GRUB's modules for a platform and its font from the
// build root to home, GRUB's directory in the tree.
func copyGrubPlatform(args *module.Args, platform, home string) error {
	target := filepath.Join(home, platform)
	if err := makeDirs(args, target); err != nil {
		return err
	}
	source := filepath.Join(grubLibrary, platform)
	entries, err := os.ReadDir(source)
	if err != nil {
		return fmt.Errorf("the build root has no GRUB for %s: install grub-pc-bin or grub2-pc-modules (ppc64le: grub2-ppc64le-modules) in it: %w", platform, err)
	}
	for _, entry := range entries {
		ext := filepath.Ext(entry.Name())
		if ext != ".mod" && ext != ".lst" || entry.Name() == "fdt.lst" {
			continue
		}
		if err := copyBuildFile(args, filepath.Join(source, entry.Name()), filepath.Join(target, entry.Name())); err != nil {
			return fmt.Errorf("copy GRUB of the build root: %w", err)
		}
	}
	return copyGrubFont(args, filepath.Join(home, "fonts"))
}

// copyGrubFont copies GRUB's font from the build root to a directory of the
// tree, which is made.
func copyGrubFont(args *module.Args, dir string) error {
	if err := makeDirs(args, dir); err != nil {
		return err
	}
	if err := copyBuildFile(args, grubFont, filepath.Join(dir, filepath.Base(grubFont))); err != nil {
		return fmt.Errorf("copy GRUB's font of the build root, which is in grub-common (Debian) or grub2-common (Fedora): %w", err)
	}
	return nil
}

// copyLoaders copies the UEFI loaders of a vendor, and those that firmware
// starts by itself, from a directory of the build root.
func copyLoaders(args *module.Args, source, vendor string) error {
	for _, dir := range []string{"BOOT", vendor} {
		if err := copyBuildTree(args, filepath.Join(source, dir), filepath.Join(buildESP, dir)); err != nil {
			return fmt.Errorf("install UEFI loaders of the build root: %w", err)
		}
	}
	return nil
}
