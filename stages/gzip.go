package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/ossify/ossify/module"
)

type gzipOptions struct {
	Filename string `json:"filename"`
	Level    *int   `json:"level"`
}

// gzipFile compresses the only file of the input "file". Neither its name nor its
// time gets into the result.
func gzipFile(ctx context.Context, args *module.Args, options gzipOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	level := 1
	if options.Level != nil {
		level = *options.Level
	}
	return compressFile(ctx, args, "org.osbuild.gzip", options.Filename, "gzip", "--no-name", "--stdout", fmt.Sprintf("-%d", level))
}
