package stages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ossify/ossify/module"
)

const (
	bootisoStage   = "org.osbuild.bootiso.mono"
	loraxTemplates = "/usr/share/lorax/templates.d"
	syslinuxFiles  = "/usr/share/syslinux"
)

type bootisoOptions struct {
	Product struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"product"`
	// Kernel is a version.
	Kernel   string `json:"kernel"`
	ISOLabel string `json:"isolabel"`
	EFI      *struct {
		Architectures []string `json:"architectures"`
		Vendor        string   `json:"vendor"`
	} `json:"efi"`
	Isolinux struct {
		Enabled bool `json:"enabled"`
		Debug   bool `json:"debug"`
	} `json:"isolinux"`
	KernelOpts string  `json:"kernel_opts"`
	Templates  *string `json:"templates"`
	Rootfs     struct {
		Compression *struct {
			Method  string `json:"method"`
			Options struct {
				BCJ string `json:"bcj"`
			} `json:"options"`
		} `json:"compression"`
		// Size is in MiB.
		Size *int64 `json:"size"`
	} `json:"rootfs"`
}

// bootiso is the medium that is worked on.
type bootiso struct {
	args    *module.Args
	options *bootisoOptions
	// rootfs and kernel are directories of inputs.
	rootfs, kernel string
	// templates is the directory of the build root with configurations.
	templates string
	// cmdline are the kernel's options.
	cmdline string
	// work is a directory of the tree for what is no part of the medium.
	work string
}

// bootisoMono makes the files of an installation medium: kernel, loaders and
// the root filesystem, an ext4 in a squashfs.
func bootisoMono(ctx context.Context, args *module.Args, options bootisoOptions) (err error) {
	b := &bootiso{args: args, options: &options, cmdline: "inst.stage2=hd:LABEL=" + options.ISOLabel}
	if options.KernelOpts != "" {
		b.cmdline += " " + options.KernelOpts
	}
	if err := b.findInputs(); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp(args.Tree, ".bootiso-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	if err := makeNewDir(args, "/images"); err != nil {
		return err
	}
	if err := b.installKernel(); err != nil {
		return fmt.Errorf("install kernel %s: %w", options.Kernel, err)
	}
	if options.Isolinux.Enabled {
		if err := b.installIsolinux(); err != nil {
			return fmt.Errorf("install isolinux: %w", err)
		}
	}
	if options.EFI != nil {
		if err := b.installEFI(ctx); err != nil {
			return err
		}
	}
	return b.writeInstallImage(ctx)
}

// findInputs sets the directories that the medium's files come from.
func (b *bootiso) findInputs() error {
	b.rootfs = b.args.Inputs["rootfs"].Path
	if b.rootfs == "" {
		return errors.New(`the stage lacks the input "rootfs"`)
	}
	b.kernel = b.rootfs
	if input, ok := b.args.Inputs["kernel"]; ok {
		b.kernel = input.Path
	}
	templates, arch := "99-generic", "x86"
	if b.options.Templates != nil {
		templates = *b.options.Templates
	}
	if efi := b.options.EFI; efi != nil && slices.Contains(efi.Architectures, "AA64") {
		arch = "aarch64"
	}
	b.templates = filepath.Join(loraxTemplates, templates, "config_files", arch)
	return nil
}

// installKernel copies the kernel and its initial RAM disk to /images/pxeboot.
func (b *bootiso) installKernel() error {
	if err := makeNewDir(b.args, "/images/pxeboot"); err != nil {
		return err
	}
	if err := b.copyInput(b.kernel, "/boot/vmlinuz-"+b.options.Kernel, "/images/pxeboot/vmlinuz"); err != nil {
		return err
	}
	return b.copyInput(b.kernel, "/boot/initramfs-"+b.options.Kernel+".img", "/images/pxeboot/initrd.img")
}

// installIsolinux makes the directory of the loader for BIOS.
func (b *bootiso) installIsolinux() error {
	const dir = "/isolinux"
	if err := makeNewDir(b.args, dir); err != nil {
		return err
	}
	for _, name := range []string{"isolinux.bin", "ldlinux.c32", "libcom32.c32", "libutil.c32", "vesamenu.c32"} {
		source := name
		if name == "isolinux.bin" && b.options.Isolinux.Debug {
			source = "isolinux-debug.bin"
		}
		data, err := os.ReadFile(filepath.Join(syslinuxFiles, source))
		if err != nil {
			return err
		}
		if err := writeFile(b.args, filepath.Join(dir, name), string(data)); err != nil {
			return err
		}
		target, err := treeTarget(b.args, filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := os.Chmod(target, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"isolinux.cfg", "boot.msg", "grub.conf"} {
		values := []string{"@VERSION@", b.options.Product.Version, "@PRODUCT@", b.options.Product.Name, "@ROOT@", b.cmdline}
		if err := b.fillTemplate(name, filepath.Join(dir, name), values); err != nil {
			return err
		}
	}
	if err := b.copyInput(b.rootfs, "/usr/share/anaconda/boot/syslinux-splash.png", dir+"/splash.png"); err != nil {
		return err
	}
	for _, name := range []string{"vmlinuz", "initrd.img"} {
		source, err := treeTarget(b.args, "/images/pxeboot/"+name)
		if err != nil {
			return err
		}
		target, err := treeEntry(b.args, filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := os.Link(source, target); err != nil {
			return err
		}
	}
	return nil
}

// installEFI makes EFI/BOOT and an image of it for El Torito.
func (b *bootiso) installEFI(ctx context.Context) error {
	efi := b.options.EFI
	if err := installISOLoaders(b.args, efi.Architectures, efi.Vendor); err != nil {
		return err
	}
	values := []string{
		"@VERSION@", b.options.Product.Version, "@PRODUCT@", b.options.Product.Name, "@KERNELNAME@", "vmlinuz",
		"@KERNELPATH@", "/images/pxeboot/vmlinuz", "@INITRDPATH@", "/images/pxeboot/initrd.img",
		"@ISOLABEL@", b.options.ISOLabel, "@ROOT@", b.cmdline,
	}
	if err := b.fillTemplate("grub2-efi.cfg", isoESP+"/grub.cfg", values); err != nil {
		return err
	}
	if slices.Contains(efi.Architectures, "IA32") {
		if err := copyISOConfig(b.args); err != nil {
			return err
		}
	}
	if err := b.writeEFIImage(ctx); err != nil {
		return fmt.Errorf("write images/efiboot.img: %w", err)
	}
	return nil
}

// fillTemplate writes a template of the build root to a path of the tree, with
// values in the place of names: pairs, of which each sees what those before it
// made.
func (b *bootiso) fillTemplate(name, path string, pairs []string) error {
	data, err := os.ReadFile(filepath.Join(b.templates, name))
	if err != nil {
		return fmt.Errorf("read template of the build root, which lorax-templates-generic has (Fedora): %w", err)
	}
	if !utf8.Valid(data) {
		return fmt.Errorf("template %s of the build root is not UTF-8", filepath.Join(b.templates, name))
	}
	text := pythonLines(data)
	for i := 0; i < len(pairs); i += 2 {
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return writeFile(b.args, path, text)
}

// copyInput copies the content of a file of an input to a path of the tree.
func (b *bootiso) copyInput(root, from, to string) (err error) {
	source, err := location{root: root, path: filepath.Clean(from)}.target()
	if err != nil {
		return err
	}
	target, err := treeTarget(b.args, to)
	if err != nil {
		return err
	}
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
