package stages

import (
	"context"
	"errors"

	"github.com/ossify/ossify/module"
)

type gunzipOptions struct {
	Path string `json:"path"`
}

// gunzip unpacks the only file of the input "file" to a file of the tree.
func gunzip(ctx context.Context, args *module.Args, options gunzipOptions) error {
	if options.Path == "" {
		return errors.New(`options lack "path"`)
	}
	return compressFile(ctx, args, "org.osbuild.gunzip", options.Path, "gunzip", "--stdout")
}
