package stages

import (
	"context"
	"errors"

	"github.com/ossify/ossify/module"
)

type xzOptions struct {
	Filename string `json:"filename"`
}

// xzFile compresses the only file of the input "file", fast and on every core.
func xzFile(ctx context.Context, args *module.Args, options xzOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	return compressFile(ctx, args, "org.osbuild.xz", options.Filename, "xz", "--threads=0", "--keep", "--stdout", "-0")
}
