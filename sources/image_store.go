package sources

import (
	"errors"
	"fmt"
	"os"
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
	opened map[string]storage.Store
	undo   []func() error
}

// get opens the storage in the directory location, "" for podman's own. None is
// made where there is none.
func (s *stores) get(location string) (storage.Store, error) {
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
	opts.RunRoot = scratch.dir
	store, err := storage.GetStore(opts)
	if err != nil {
		return nil, fmt.Errorf("open the container storage %s: %w", opts.GraphRoot, err)
	}
	s.undo = append(s.undo, func() error {
		_, err := store.Shutdown(false)
		return err
	})
	if s.opened == nil {
		s.opened = map[string]storage.Store{}
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
