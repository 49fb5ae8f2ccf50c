package inputs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/hoststorage"
	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// storageConf is the part of storage.conf that says how a storage is made.
type storageConf struct {
	Driver    string `json:"driver"`
	GraphRoot string `json:"graphroot"`
	RunRoot   string `json:"runroot"`
}

// containersStorage provides the container storage of this host, of which the
// references name images. Processes of the build have the same ids as those of
// podman, so that the files have their owners.
//
// Tools that read a storage want to lock it, and osbuild's stages mount it
// writable. So the stage gets a storage of its own of the images of this one:
//
//	storage                     in memory
//	storage/DRIVER-images       an overlay on the host's; changes go with the
//	storage/DRIVER-layers       stage
//	storage/DRIVER              the host's, read-only
//
// The layers themselves, in DRIVER, cannot be under an overlay: it would take the
// marks of podman's overlays for its own. Containers, volumes and secrets of
// podman are not shown.
func containersStorage(_ context.Context, call *module.MapCall, _ *module.StoreClient) (any, error) {
	if call.Origin != "org.osbuild.source" {
		return nil, fmt.Errorf("origin %q is none that images of this host come from: use org.osbuild.source", call.Origin)
	}
	opts, err := hoststorage.Options()
	if err != nil {
		return nil, err
	}
	conf := &storageConf{Driver: opts.GraphDriverName, GraphRoot: opts.GraphRoot, RunRoot: opts.RunRoot}
	archives := map[string]archive{}
	for _, id := range sortedRefs(call.Refs) {
		name, err := imageName(call, id)
		if err != nil {
			return nil, err
		}
		archives[id] = archive{Format: "containers-storage", Name: name, Storage: conf}
	}
	err = provideStorage(opts.GraphRoot, opts.GraphDriverName, filepath.Join(call.Target, "storage"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no container storage %s with the driver %s: podman pull makes one", opts.GraphRoot, opts.GraphDriverName)
	}
	if err != nil {
		return nil, fmt.Errorf("provide the container storage %s: %w", opts.GraphRoot, err)
	}
	return map[string]any{
		"path": call.Target, "data": map[string]any{"archives": archives}, "writable": []string{"storage"},
	}, nil
}

// provideStorage makes the stage's storage at target. Changes go to a new folder
// in the working directory, which is the engine's scratch for the stage's inputs.
func provideStorage(graphRoot, driver, target string) error {
	changes, err := os.MkdirTemp(".", "storage-")
	if err != nil {
		return err
	}
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	for _, kind := range []string{"images", "layers"} {
		name := driver + "-" + kind
		if err := overlayOn(filepath.Join(graphRoot, name), filepath.Join(changes, kind), filepath.Join(target, name)); err != nil {
			return err
		}
	}
	return bindReadOnly(filepath.Join(graphRoot, driver), filepath.Join(target, driver))
}

// overlayOn shows the directory lower at target, which it makes. What is changed
// there goes to changes, a new directory.
func overlayOn(lower, changes, target string) error {
	// The path may have characters that are special in the options of a mount.
	dir, err := os.Open(lower)
	if err != nil {
		return err
	}
	defer dir.Close()
	upper, work := filepath.Join(changes, "upper"), filepath.Join(changes, "work")
	for _, path := range []string{changes, upper, work, target} {
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("userxattr,volatile,lowerdir=/proc/self/fd/%d,upperdir=%s,workdir=%s", dir.Fd(), upper, work)
	if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}
