package stages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/ossify/ossify/module"
)

const zipStage = "org.osbuild.zip"

// utf8Locale makes a program that converts names read them as UTF-8, as they
// are for osbuild's modules.
const utf8Locale = "LC_ALL=C.UTF-8"

type zipOptions struct {
	Filename string   `json:"filename"`
	Include  []string `json:"include"`
	Level    *int     `json:"level"`
}

// zipTree packs the input "tree" with zip, which stores what symbolic links lead
// to in their place.
func zipTree(ctx context.Context, args *module.Args, options zipOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	source := args.Inputs["tree"].Path
	if source == "" {
		return errors.New(`the stage lacks the input "tree"`)
	}
	target, err := zipTarget(args, options.Filename)
	if err != nil {
		return fmt.Errorf("pack %s: %w", options.Filename, err)
	}
	level := 6
	if options.Level != nil {
		level = *options.Level
	}
	argv := []string{fmt.Sprintf("-%d", level), target, "."}
	if len(options.Include) > 0 {
		argv = append(append(argv, "-i"), options.Include...)
	}
	if err := checkZipLinks(ctx, args, source, argv); err != nil {
		return fmt.Errorf("pack %s: %w", options.Filename, err)
	}
	if err := runZip(ctx, args, source, os.Stdout, append([]string{"-q", "-r"}, argv...)); err != nil {
		return fmt.Errorf("pack %s: %w", options.Filename, err)
	}
	return nil
}

// zipTarget returns the path of the archive, of which zip reads what is there. A
// symbolic link that leads there is left to zip.
func zipTarget(args *module.Args, name string) (string, error) {
	target, err := treeEntry(args, name)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(filepath.Dir(target)); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the tree has no directory %s: make it with org.osbuild.mkdir before", path.Dir(path.Clean("/"+name)))
	} else if err != nil {
		return "", err
	} else if !info.IsDir() {
		return "", fmt.Errorf("%s is not a directory", path.Dir(path.Clean("/"+name)))
	}
	inside, err := staysInside(args.Tree, filepath.Clean("/"+name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err == nil && !inside {
		return "", errors.New("it is a symbolic link that leads out of the tree: remove it before")
	}
	return target, nil
}

// runZip runs zip in the source, with its words going to out.
func runZip(ctx context.Context, args *module.Args, source string, out io.Writer, argv []string) error {
	cmd, err := hostCommand(ctx, args, zipStage, "zip", argv...)
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, utf8Locale)
	cmd.Dir = source
	return module.RunTool(cmd, out)
}

// checkZipLinks fails if zip would follow a symbolic link out of the source.
func checkZipLinks(ctx context.Context, args *module.Args, source string, argv []string) error {
	leads, err := linksLeadOut(source)
	if err != nil || !leads {
		return err
	}
	var list bytes.Buffer
	if err := runZip(ctx, args, source, &list, append([]string{"-r", "-sf"}, argv...)); err != nil {
		return err
	}
	for line := range strings.Lines(list.String()) {
		name, isMember := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "  ")
		if !isMember {
			continue
		}
		if inside, err := staysInside(source, name); err != nil {
			return err
		} else if !inside {
			return fmt.Errorf("%s leads out of the tree to pack by a symbolic link, which zip would follow: exclude it with include, or make the link relative", name)
		}
	}
	return nil
}

// linksLeadOut tells whether the tree has a symbolic link that leads elsewhere
// for a process with another root directory.
func linksLeadOut(root string) (bool, error) {
	found := false
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type() != fs.ModeSymlink {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		inside, err := staysInside(root, name)
		if errors.Is(err, os.ErrNotExist) { // it leads to nothing, so zip leaves it out
			return nil
		}
		if err != nil {
			return err
		}
		if !inside {
			found = true
			return filepath.SkipAll
		}
		return nil
	})
	return found, err
}

// staysInside tells whether the kernel finds for a path below root what it
// would find with root as the root directory.
func staysInside(root, name string) (bool, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return false, err
	}
	real, err := filepath.EvalSymlinks(filepath.Join(root, name))
	if err != nil {
		return false, err
	}
	inside, err := securejoin.SecureJoin(root, name)
	return real == inside, err
}
