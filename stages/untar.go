package stages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

const untarStage = "org.osbuild.untar"

type untarOptions struct {
	Prefix string `json:"prefix"`
}

// untar unpacks the only file of the input "file" below prefix, which must
// exist. tar runs as root and so keeps owners and modes.
func untar(ctx context.Context, args *module.Args, options untarOptions) error {
	input := args.Inputs["file"]
	if len(input.Data.Files) != 1 {
		return fmt.Errorf("input \"file\" must have one file, not %d", len(input.Data.Files))
	}
	var source string
	for name := range input.Data.Files {
		source = filepath.Join(input.Path, name)
	}
	target, err := treeTarget(args, options.Prefix)
	if err != nil {
		return err
	}
	if info, err := os.Stat(target); err != nil || !info.IsDir() {
		return fmt.Errorf("unpack to prefix %q: it is not a directory of the tree", options.Prefix)
	}
	tool, err := decompressor(source)
	if err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	if tool != "" {
		if _, err := module.LookTool(tool); err != nil {
			return fmt.Errorf("%s: %w", untarStage, err)
		}
	}
	cmd, err := hostCommand(ctx, args, untarStage, "tar", "--auto-compress", "-x", "-f", source, "-C", target)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return nil
}

// decompressor returns the program that tar will call for the file, by its
// first bytes, or "".
func decompressor(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	head := make([]byte, 6)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	for _, known := range []struct{ magic, tool string }{
		{"\x1f\x8b", "gzip"},
		{"\xfd7zXZ\x00", "xz"},
		{"\x28\xb5\x2f\xfd", "zstd"},
		{"BZh", "bzip2"},
		{"LZIP", "lzip"},
		{"\x89LZO", "lzop"},
	} {
		if bytes.HasPrefix(head[:n], []byte(known.magic)) {
			return known.tool, nil
		}
	}
	return "", nil
}
