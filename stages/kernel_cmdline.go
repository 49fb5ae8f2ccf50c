package stages

import (
	"context"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

type kernelCmdlineOptions struct {
	RootFSUUID string `json:"root_fs_uuid"`
	KernelOpts string `json:"kernel_opts"`
	Size       *int   `json:"kernel_cmdline_size"`
}

// kernelCmdline writes /etc/kernel/cmdline, without a line end.
func kernelCmdline(_ context.Context, args *module.Args, options kernelCmdlineOptions) error {
	var words []string
	if options.RootFSUUID != "" {
		words = append(words, "root=UUID="+options.RootFSUUID)
	}
	if options.KernelOpts != "" {
		words = append(words, options.KernelOpts)
	}
	line := strings.Join(words, " ")
	limit := 0
	if options.Size != nil {
		limit = *options.Size
	} else {
		var uts unix.Utsname
		if err := unix.Uname(&uts); err != nil {
			return fmt.Errorf("ask for the machine type: %w", err)
		}
		limit = cmdlineLimit(strings.ToLower(unix.ByteSliceToString(uts.Machine[:])))
	}
	if got := utf8.RuneCountInString(line); got > limit {
		return fmt.Errorf("the kernel command line has %d characters, at most %d are allowed: shorten kernel_opts or raise kernel_cmdline_size", got, limit)
	}
	dir, err := treeTarget(args, "/etc/kernel")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write kernel command line: %w", err)
	}
	path, err := treeTarget(args, "/etc/kernel/cmdline")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(line), 0o644); err != nil {
		return fmt.Errorf("write kernel command line: %w", err)
	}
	return nil
}

// cmdlineLimit returns the kernel's COMMAND_LINE_SIZE of a machine type as
// uname names it, or 4096 for one that osbuild does not list either.
func cmdlineLimit(machine string) int {
	switch machine {
	case "x86_64", "i386", "aarch64", "powerpc", "ppc64":
		return 2048
	case "arm", "riscv":
		return 1024
	}
	return 4096
}
