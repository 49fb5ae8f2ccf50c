package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/dpkg"
	"github.com/ossify/ossify/module"
)

type dpkgOptions struct {
	Architecture string   `json:"architecture"`
	ExcludeDocs  bool     `json:"exclude-docs"`
	Debconf      []string `json:"debconf"`
}

// installDebs installs the packages of the input "packages" into the tree.
func installDebs(ctx context.Context, args *module.Args, options dpkgOptions) (err error) {
	input, ok := args.Inputs["packages"]
	if !ok {
		return errors.New(`the stage lacks the input "packages"`)
	}
	files, err := os.ReadDir(input.Path)
	if err != nil {
		return fmt.Errorf("list the packages: %w", err)
	}
	var paths []string
	for _, file := range files {
		if strings.HasPrefix(file.Name(), "sha256:") {
			paths = append(paths, filepath.Join(input.Path, file.Name()))
		}
	}
	if len(paths) == 0 {
		return errors.New(`the input "packages" has no files`)
	}
	set, err := dpkg.OpenSet(ctx, paths)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	return dpkg.Install(ctx, set, args.Tree, dpkg.Options{
		Arch:        options.Architecture,
		ExcludeDocs: options.ExcludeDocs,
		Debconf:     options.Debconf,
		SourceEpoch: args.Meta.SourceEpoch,
		Log:         os.Stdout,
	})
}
