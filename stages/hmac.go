package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

type hmacOptions struct {
	Paths     []string `json:"paths"`
	Algorithm string   `json:"algorithm"`
}

// hmac writes .NAME.hmac beside each file. The program runs in the file's
// directory, because the name that it is given stands in what it writes.
func hmac(ctx context.Context, args *module.Args, options hmacOptions) error {
	if options.Paths == nil || options.Algorithm == "" {
		return errors.New(`options lack "paths" or "algorithm"`)
	}
	for _, file := range options.Paths {
		if err := writeHMAC(ctx, args, options.Algorithm+"hmac", file); err != nil {
			return fmt.Errorf("write the checksum of %q: %w", file, err)
		}
	}
	return nil
}

func writeHMAC(ctx context.Context, args *module.Args, tool, file string) (err error) {
	dir, base := path.Split(file)
	entry, err := treeEntry(args, file)
	if err != nil {
		return err
	}
	target, err := treeTarget(args, file)
	if err != nil {
		return err
	}
	if err := sameFile(entry, target); err != nil {
		return fmt.Errorf("%w: name the file that it stands for", err)
	}
	sum, err := treeTarget(args, path.Join(dir, "."+base+".hmac"))
	if err != nil {
		return err
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.hmac", tool, base)
	if err != nil {
		return err
	}
	cmd.Dir = filepath.Dir(entry)
	out, err := os.OpenFile(sum, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return module.RunTool(cmd, out)
}
