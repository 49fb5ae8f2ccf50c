package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
)

const skopeoStage = "org.osbuild.skopeo"

type skopeoOptions struct {
	Destination struct {
		Type          string  `json:"type"`
		Path          string  `json:"path"`
		StoragePath   *string `json:"storage-path"`
		StorageDriver *string `json:"storage-driver"`
	} `json:"destination"`
	RemoveSignatures bool `json:"remove-signatures"`
}

// skopeo copies the images of the input "images" to the tree: into a container
// storage, or as one of the forms in which images are files.
func skopeo(ctx context.Context, args *module.Args, options skopeoOptions) error {
	if options.Destination.Type == "" {
		return errors.New(`options lack "destination"`)
	}
	images, err := containerImages(ctx, args, skopeoStage)
	if err != nil {
		return err
	}
	storage, err := treeTarget(args, orDefault(options.Destination.StoragePath, "/var/lib/containers/storage"))
	if err != nil {
		return err
	}
	driver := orDefault(options.Destination.StorageDriver, "overlay")
	for _, image := range images {
		target := fmt.Sprintf("containers-storage:[%s@%s+/run/containers/storage]%s", driver, storage, image.Name)
		if options.Destination.Type != "containers-storage" {
			place, err := imageFile(args, options.Destination.Path)
			if err != nil {
				return fmt.Errorf("make the directory of %s: %w", options.Destination.Path, err)
			}
			target = options.Destination.Type + ":" + place
		}
		if err := copyImage(ctx, args, image, target, options.RemoveSignatures); err != nil {
			return fmt.Errorf("copy image %s: %w", image.Name, err)
		}
	}
	if options.Destination.Type != "containers-storage" || driver != "overlay" {
		return nil
	}
	// On XFS the driver makes this node; OSTree cannot store it, and the driver
	// makes it anew.
	err = os.Remove(filepath.Join(storage, "overlay", "backingFsBlockDev"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a device node of the storage: %w", err)
	}
	return nil
}

// imageFile returns where an image is to be, in a directory that it makes. What
// follows a colon is no part of the file's name.
func imageFile(args *module.Args, name string) (string, error) {
	dir, base := path.Split(name)
	if err := makeDirs(args, dir); err != nil {
		return "", err
	}
	file, reference, tagged := strings.Cut(base, ":")
	target, err := treeTarget(args, path.Join(dir, file))
	if err != nil || !tagged {
		return target, err
	}
	return target + ":" + reference, nil
}

func copyImage(ctx context.Context, args *module.Args, image containerImage, target string, removeSignatures bool) (err error) {
	source, release, err := image.source(ctx, args, skopeoStage)
	defer func() { err = errors.Join(err, release()) }()
	if err != nil {
		return err
	}
	argv := []string{"copy"}
	if removeSignatures {
		argv = append(argv, "--remove-signatures")
	}
	cmd, err := hostCommand(ctx, args, skopeoStage, "skopeo", append(argv, source, target)...)
	if err != nil {
		return err
	}
	return run(cmd)
}
