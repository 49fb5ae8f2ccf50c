package assemblers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/ociarchive"
)

type ociArchiveOptions struct {
	Architecture string          `json:"architecture"`
	Filename     string          `json:"filename"`
	Config       json.RawMessage `json:"config"`
}

// ociArchive makes a container image whose only layer is the input "tree".
func ociArchive(ctx context.Context, args *module.Args, options ociArchiveOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	source := args.Inputs["tree"].Path
	if source == "" {
		return errors.New(`the assembler lacks the input "tree"`)
	}
	target, err := args.InTree(options.Filename)
	if err != nil {
		return err
	}
	image := ociarchive.Image{
		Architecture: options.Architecture, Created: time.Now(), TimeFormat: "2006-01-02T15:04:05.000000Z",
		Layers: []ociarchive.Layer{{Path: source, Record: args.Inputs["tree"].Record}}, XAttrs: []string{"*"}, Labels: true,
	}
	if epoch := args.Meta.SourceEpoch; epoch != nil {
		image.Created = time.Unix(*epoch, 0)
	}
	if image.Config, err = ociarchive.Config(options.Config); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if err := ociarchive.Write(ctx, args, "org.osbuild.oci-archive", target, image); err != nil {
		return fmt.Errorf("write %q: %w", options.Filename, err)
	}
	return nil
}
