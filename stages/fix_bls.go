package stages

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/ossify/ossify/bls"
	"github.com/ossify/ossify/module"
)

type fixBLSOptions struct {
	Prefix            *string `json:"prefix"`
	RequireBootPrefix *bool   `json:"require_boot_prefix"`
}

// fixBLS replaces the paths of the build in the tree's boot loader entries.
func fixBLS(_ context.Context, args *module.Args, options fixBLSOptions) error {
	prefix := "/boot"
	if options.Prefix != nil {
		prefix = *options.Prefix
	}
	if strings.Contains(prefix, `\`) {
		return fmt.Errorf("prefix %q has a backslash, which no boot loader takes in a path", prefix)
	}
	entries, err := bootEntries(location{root: args.Tree, path: "/boot"})
	if err != nil {
		return err
	}
	for _, entry := range entries {
		text, err := entry.read()
		if err != nil {
			return err
		}
		target, err := entry.target()
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, []byte(bls.ReplaceBoot(text, prefix, on(options.RequireBootPrefix))), 0o644); err != nil {
			return fmt.Errorf("write boot loader entry: %w", err)
		}
	}
	return nil
}
