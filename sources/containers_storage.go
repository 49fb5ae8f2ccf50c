package sources

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/ossify/ossify/module"
	"go.podman.io/storage"
)

// containersStorage sees whether images are in the container storage of this
// host, where they stay: stages read them there. Their ids name them.
func containersStorage(ctx context.Context, _ *module.Service, d *module.Download) (_ []module.ItemResult, err error) {
	if err := sweepScratch(d.Tmp); err != nil {
		return nil, err
	}
	s := &stores{tmp: d.Tmp}
	defer func() { err = errors.Join(err, s.close()) }()
	var results []module.ItemResult
	for _, id := range sortedKeys(d.Items) {
		err := context.Cause(ctx)
		if err == nil {
			err = findImage(s, id)
		}
		if err != nil {
			results = append(results, failed(id, err))
			continue
		}
		results = append(results, module.ItemResult{Success: true, Metadata: map[string]any{"checksum": id}})
	}
	return results, nil
}

// findImage fails unless the image with that id is in the host's storage.
func findImage(s *stores, id string) error {
	if _, err := parseChecksum(id); err != nil {
		return err
	}
	store, err := s.get("")
	if err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	img, err := store.Image(strings.TrimPrefix(id, "sha256:"))
	if errors.Is(err, storage.ErrImageUnknown) {
		return fmt.Errorf("image %s is not in the container storage %s: get it there with podman pull", id, store.root)
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	// The configuration is kept under its digest, which is the image's id.
	config, err := store.ImageBigData(img.ID, id)
	if err != nil {
		return fmt.Errorf("image %s: read its configuration: %w", id, err)
	}
	if got := digest.FromBytes(config).String(); got != id {
		return fmt.Errorf("checksum mismatch: the image %s in the container storage %s has the id %s", id, store.root, got)
	}
	return nil
}
