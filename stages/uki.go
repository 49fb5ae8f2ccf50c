package stages

import (
	"context"
	"debug/pe"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ossify/ossify/module"
)

// ukiStub is systemd's UEFI program that starts the kernel it carries.
const ukiStub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

type ukiOptions struct {
	Filename string `json:"filename"`
	Kernel   struct {
		Opts []string `json:"opts"`
	} `json:"kernel"`
}

// uki adds kernel, initrd, os-release and kernel command line to the stub of the
// build root, each as a section behind the last one.
func uki(ctx context.Context, args *module.Args, options ukiOptions) (err error) {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	target, err := treeEntry(args, options.Filename)
	if err != nil {
		return err
	}
	cmdline, release, err := cmdlineFile(options.Kernel.Opts)
	if err != nil {
		return fmt.Errorf("write the kernel command line: %w", err)
	}
	defer func() { err = errors.Join(err, release()) }()
	address, alignment, err := stubEnd(ukiStub)
	if err != nil {
		return fmt.Errorf("read the stub %s of the build root (package systemd-boot-efi of Debian, systemd-boot-unsigned of Fedora): %w", ukiStub, err)
	}
	var argv []string
	for _, section := range []struct{ name, input string }{
		{".osrel", "osrel"}, {".cmdline", ""}, {".linux", "kernel"}, {".initrd", "initrd"},
	} {
		path := cmdline
		if section.input != "" {
			if path, err = onlyFile(args, section.input); err != nil {
				return err
			}
		}
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("add section %s: %w", section.name, err)
		}
		argv = append(argv, "--add-section", section.name+"="+path, "--change-section-vma", fmt.Sprintf("%s=%d", section.name, address))
		address = alignUp(address+info.Size(), alignment)
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.uki", "objcopy", append(argv, ukiStub, target)...)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return fmt.Errorf("make %q: %w", options.Filename, err)
	}
	return nil
}

// cmdlineFile writes the kernel command line to a file, which release removes.
func cmdlineFile(words []string) (path string, release func() error, err error) {
	file, err := os.CreateTemp("", "cmdline-")
	if err != nil {
		return "", nil, err
	}
	_, err = file.WriteString(strings.Join(words, " "))
	if err := errors.Join(err, file.Close()); err != nil {
		return "", nil, errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), func() error { return os.Remove(file.Name()) }, nil
}

// stubEnd returns the first address behind a program's sections where one can
// be, and how sections are aligned.
func stubEnd(path string) (address, alignment int64, err error) {
	file, err := pe.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	header, ok := file.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return 0, 0, errors.New("it is no program for 64 bits")
	}
	alignment = int64(max(header.SectionAlignment, header.FileAlignment))
	if len(file.Sections) == 0 || alignment == 0 {
		return 0, 0, errors.New("it has no sections or does not align them")
	}
	last := file.Sections[len(file.Sections)-1]
	return alignUp(int64(last.VirtualAddress)+int64(last.VirtualSize), alignment), alignment, nil
}

// alignUp rounds up to a multiple.
func alignUp(n, multiple int64) int64 {
	return (n + multiple - 1) / multiple * multiple
}
