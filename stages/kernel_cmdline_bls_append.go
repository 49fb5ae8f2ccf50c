package stages

import (
	"context"
	"fmt"
	"os"

	"github.com/ossify/ossify/bls"
	"github.com/ossify/ossify/module"
)

type blsAppendOptions struct {
	KernelOpts []string `json:"kernel_opts"`
	BootPath   string   `json:"bootpath"`
}

// blsAppend adds kernel options to all boot loader entries of the tree or of a
// mount.
func blsAppend(_ context.Context, args *module.Args, options blsAppendOptions) error {
	bootPath := options.BootPath
	if bootPath == "" {
		bootPath = "tree:///boot"
	}
	boot, err := parseLocation(args, bootPath)
	if err != nil {
		return fmt.Errorf("bootpath: %w", err)
	}
	entries, err := bootEntries(boot)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return fmt.Errorf("there are no boot loader entries loader/entries/*.conf in %s: install a kernel in an earlier stage or set bootpath", bootPath)
	}
	for _, entry := range entries {
		text, err := entry.read()
		if err != nil {
			return err
		}
		if err := entry.replace(bls.AppendOptions(text, options.KernelOpts)); err != nil {
			return fmt.Errorf("replace boot loader entry: %w", err)
		}
	}
	return nil
}

// replace puts a new file in the place of the entry, or of a symbolic link to
// it, by way of a file NAME.conf.tmp.
func (e bootEntry) replace(text string) error {
	place, err := e.entry()
	if err != nil {
		return err
	}
	temporary := bootEntry{location{root: e.root, path: e.path + ".tmp"}}
	target, err := temporary.target()
	if err != nil {
		return err
	}
	if err := os.WriteFile(target, []byte(text), 0o644); err != nil {
		return err
	}
	moved, err := temporary.entry()
	if err != nil {
		return err
	}
	return os.Rename(moved, place)
}
