package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

type dracutOptions struct {
	Kernel         []string           `json:"kernel"`
	Compress       string             `json:"compress"`
	Modules        []string           `json:"modules"`
	AddModules     []string           `json:"add_modules"`
	OmitModules    []string           `json:"omit_modules"`
	Drivers        []string           `json:"drivers"`
	AddDrivers     []string           `json:"add_drivers"`
	OmitDrivers    []string           `json:"omit_drivers"`
	ForceDrivers   []string           `json:"force_drivers"`
	Filesystems    []string           `json:"filesystems"`
	Include        []ordered[*string] `json:"include"`
	Remove         []string           `json:"remove"`
	Install        []string           `json:"install"`
	EarlyMicrocode bool               `json:"early_microcode"`
	Reproducible   *bool              `json:"reproducible"`
	Initoverlayfs  bool               `json:"initoverlayfs"`
	Extra          []string           `json:"extra"`
}

// dracut has the tree's own dracut make the initramfs of each kernel.
func dracut(ctx context.Context, args *module.Args, options dracutOptions) error {
	if options.Kernel == nil {
		return errors.New(`options lack "kernel"`)
	}
	argv, err := options.arguments()
	if err != nil {
		return err
	}
	for _, kernel := range options.Kernel {
		if err := runDracut(ctx, args, options.Initoverlayfs, append([]string{"--no-hostonly", "--kver", kernel}, argv...)); err != nil {
			return fmt.Errorf("make initramfs for kernel %s: %w", kernel, err)
		}
	}
	return nil
}

// arguments are those of the program for every kernel.
func (o dracutOptions) arguments() ([]string, error) {
	argv := []string{"--force", "-v", "--show-modules"}
	argv = append(argv, dracutSwitch("early-microcode", o.EarlyMicrocode))
	argv = append(argv, dracutSwitch("reproducible", o.Reproducible == nil || *o.Reproducible))
	if o.Compress != "" {
		argv = append(argv, "--compress="+o.Compress)
	}
	lists := []struct {
		flag  string
		words []string
	}{
		{"--modules", o.Modules},
		{"--add", o.AddModules},
		{"--omit", o.OmitModules},
		{"--drivers", o.Drivers},
		{"--add-drivers", o.AddDrivers},
		{"--omit-drivers", o.OmitDrivers},
		{"--force-drivers", o.ForceDrivers},
		{"--filesystems", o.Filesystems},
	}
	for _, list := range lists {
		if len(list.words) > 0 {
			argv = append(argv, list.flag, strings.Join(list.words, " "))
		}
	}
	for _, paths := range o.Include {
		for _, path := range paths {
			if path.value == nil {
				return nil, fmt.Errorf("include %s: where to must be a path, not null", path.name)
			}
			argv = append(argv, "--include", path.name, *path.value)
		}
	}
	for _, path := range o.Remove {
		argv = append(argv, "--remove", path)
	}
	for _, path := range o.Install {
		argv = append(argv, "--install", path)
	}
	return append(argv, o.Extra...), nil
}

func dracutSwitch(name string, on bool) string {
	if on {
		return "--" + name
	}
	return "--no-" + name
}

func runDracut(ctx context.Context, args *module.Args, initoverlayfs bool, argv []string) (err error) {
	tool := "dracut"
	if initoverlayfs {
		tool = "initoverlayfs-install"
	}
	release, err := muteLogger(args)
	if err != nil {
		return fmt.Errorf("keep messages from syslog: %w", err)
	}
	defer func() { err = errors.Join(err, release()) }()
	return runMounted(ctx, args, "org.osbuild.dracut", tool, argv...)
}

// muteLogger puts the tree's true in the place of its logger, if it has one, until
// release is called: in the tree nothing listens, and logger complains of that
// for each of dracut's lines.
func muteLogger(args *module.Args) (release func() error, err error) {
	logger, err := treeTarget(args, "/usr/bin/logger")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(logger); errors.Is(err, os.ErrNotExist) {
		return func() error { return nil }, nil
	}
	noop, err := treeTarget(args, "/usr/bin/true")
	if err != nil {
		return nil, err
	}
	if err := unix.Mount(noop, logger, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("mount %s on %s: %w", noop, logger, err)
	}
	return func() error { return unix.Unmount(logger, unix.UMOUNT_NOFOLLOW) }, nil
}
