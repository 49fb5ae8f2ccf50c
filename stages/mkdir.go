package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

type mkdirOptions struct {
	Paths []struct {
		Path    string  `json:"path"`
		Mode    *uint32 `json:"mode"`
		Parents bool    `json:"parents"`
		ExistOK bool    `json:"exist_ok"`
	} `json:"paths"`
}

// mkdir makes directories in the tree or in mounts; the umask applies.
func mkdir(_ context.Context, args *module.Args, options mkdirOptions) error {
	if options.Paths == nil {
		return errors.New(`options lack "paths"`)
	}
	for _, item := range options.Paths {
		text := item.Path
		if !strings.Contains(text, "://") && !strings.HasPrefix(text, "/") {
			text = "/" + text
		}
		place, err := parseLocation(args, text)
		if err != nil {
			return err
		}
		mode := uint32(0o777)
		if item.Mode != nil {
			mode = *item.Mode
		}
		if err := makeDir(place, mode, item.Parents, item.ExistOK); err != nil {
			return fmt.Errorf("make directory %s: %w", item.Path, err)
		}
	}
	return nil
}

// makeDir follows Python's os.makedirs and os.mkdir: parents get mode 0777,
// and a path that ends in a slash names a parent, so that it never fails with
// parents set, and always fails without.
func makeDir(place location, mode uint32, parents, existOK bool) error {
	entry, err := place.entry()
	if err != nil {
		return err
	}
	if parents && place.contents {
		return os.MkdirAll(filepath.Clean(entry), 0o777)
	}
	if parents {
		if err := os.MkdirAll(filepath.Dir(entry), 0o777); err != nil {
			return err
		}
	}
	// unix.Mkdir, because os.Mkdir sets sticky and set-id bits with chmod.
	err = unix.Mkdir(entry, mode)
	if !errors.Is(err, os.ErrExist) || !existOK {
		return err
	}
	if parents {
		if info, statErr := os.Stat(entry); statErr != nil || !info.IsDir() {
			return err
		}
	}
	return nil
}
