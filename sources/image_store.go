package sources

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/ossify/ossify/hoststorage"
	"go.podman.io/storage"
	"go.podman.io/storage/types"
)

// stores opens container storages of this host, and keeps them open until it is
// closed.
type stores struct {
	// tmp is a directory for short-lived files.
	tmp string

	mu     sync.Mutex
	opened map[string]*imageStore
	undo   []func() error
}

// imageStore is a container storage, at root, whose images can be read.
type imageStore struct {
	storage.Store
	root string
}

// get opens the storage in the directory location, "" for podman's own. None is
// made where there is none, and nothing is changed in one that is there: it is opened
// as one of images for another, which is empty and thrown away.
func (s *stores) get(location string) (*imageStore, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if store := s.opened[location]; store != nil {
		return store, nil
	}
	opts := types.StoreOptions{GraphDriverName: "overlay", GraphRoot: location}
	if location == "" {
		var err error
		if opts, err = hoststorage.Options(); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(opts.GraphRoot); err != nil {
		return nil, fmt.Errorf("there is no container storage that can be read: %w; podman pull makes one", err)
	}
	// Images are read without being mounted, so nothing has to be known that
	// podman keeps in /run.
	scratch, err := newScratch(s.tmp)
	if err != nil {
		return nil, err
	}
	s.undo = append(s.undo, scratch.remove)
	root := opts.GraphRoot
	opts.GraphRoot, opts.RunRoot = filepath.Join(scratch.dir, "graph"), filepath.Join(scratch.dir, "run")
	opts.GraphDriverOptions = append([]string{"imagestore=" + root}, opts.GraphDriverOptions...)
	if opts.GraphDriverName == "overlay" {
		opts.GraphDriverOptions = append(opts.GraphDriverOptions, "overlay.skip_mount_home=true") // nothing is mounted in it
	}
	opened, err := storage.GetStore(opts)
	if err != nil {
		return nil, fmt.Errorf("open the container storage %s: %w", root, err)
	}
	store := &imageStore{Store: opened, root: root}
	s.undo = append(s.undo, func() error {
		_, err := store.Shutdown(false)
		return err
	})
	if s.opened == nil {
		s.opened = map[string]*imageStore{}
	}
	s.opened[location] = store
	return store, nil
}

// close closes what was opened.
func (s *stores) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for i := len(s.undo) - 1; i >= 0; i-- {
		errs = append(errs, s.undo[i]())
	}
	s.undo, s.opened = nil, nil
	return errors.Join(errs...)
}
