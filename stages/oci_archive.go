package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/ociarchive"
	"github.com/ossify/ossify/pyjson"
)

type ociArchiveOptions struct {
	Architecture string          `json:"architecture"`
	Variant      string          `json:"variant"`
	Filename     string          `json:"filename"`
	Config       json.RawMessage `json:"config"`
	Annotations  json.RawMessage `json:"annotations"`
}

// ociArchive makes a container image of the inputs: "base" is the lowest layer,
// the others follow as their names are sorted.
func ociArchive(ctx context.Context, args *module.Args, options ociArchiveOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	target, err := treeTarget(args, options.Filename)
	if err != nil {
		return err
	}
	image := ociarchive.Image{
		Architecture: options.Architecture, Variant: options.Variant,
		Created: time.Now(), TimeFormat: "2006-01-02T15:04:05-07:00",
		// Of the others only what belongs to the file, not to this machine.
		XAttrs: []string{"user.*", "security.ima", "security.capability"},
	}
	if epoch := args.Meta.SourceEpoch; epoch != nil {
		image.Created = time.Unix(*epoch, 0)
	}
	if image.Config, err = ociarchive.Config(options.Config); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if options.Annotations != nil {
		value, err := pyjson.Decode(options.Annotations, nil)
		if err != nil {
			return fmt.Errorf("annotations: %w", err)
		}
		image.Annotations, _ = value.(*pyjson.Object)
	}
	for _, input := range slices.Sorted(maps.Keys(args.Inputs)) {
		image.Layers = append(image.Layers, ociarchive.Layer{
			Path: args.Inputs[input].Path, Record: args.Inputs[input].Record, History: fmt.Sprintf("/bin/sh -c #(nop) osbuild input '%s'", input),
		})
	}
	if err := ociarchive.Write(ctx, args, "org.osbuild.oci-archive", target, image); err != nil {
		return fmt.Errorf("write %q: %w", options.Filename, err)
	}
	return nil
}
