package stages

import (
	"context"
	"errors"

	"github.com/ossify/ossify/module"
)

type zstdOptions struct {
	Filename string `json:"filename"`
}

// zstdFile compresses the only file of the input "file", fast and on every core.
func zstdFile(ctx context.Context, args *module.Args, options zstdOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	return compressFile(ctx, args, "org.osbuild.zstd", options.Filename, "zstd", "--keep", "--stdout", "-T0", "-1")
}
