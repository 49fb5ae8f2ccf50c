package stages

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/selinux"
)

type selinuxOptions struct {
	Target           string            `json:"target"`
	FileContexts     string            `json:"file_contexts"`
	ExcludePaths     []string          `json:"exclude_paths"`
	Labels           map[string]string `json:"labels"`
	ForceAutorelabel bool              `json:"force_autorelabel"`
}

// selinuxLabels labels the target by the policy's file_contexts, then single
// paths. Labels of the tree go to its side record: the kernel of this machine
// has no say in them.
func selinuxLabels(_ context.Context, args *module.Args, options selinuxOptions) error {
	if options.Target == "" {
		options.Target = "tree:///"
	}
	target, err := parseLocation(args, options.Target)
	if err != nil {
		return err
	}
	marks, err := openMarks(args)
	if err != nil {
		return err
	}
	if options.FileContexts != "" {
		if err := labelAll(args, marks, target, &options); err != nil {
			return err
		}
	}
	for name, label := range options.Labels {
		place, err := parseLocation(args, name)
		if err != nil {
			return err
		}
		file, err := place.target()
		if err != nil {
			return err
		}
		if err := marks.label(file, label); err != nil {
			return fmt.Errorf("label %s: %w", name, err)
		}
	}
	if err := marks.save(); err != nil {
		return err
	}
	if options.ForceAutorelabel {
		// With -F selinux-autorelabel resets whole contexts, not types only.
		stamp := location{root: target.root, path: "/.autorelabel"}
		file, err := stamp.target()
		if err != nil {
			return err
		}
		return os.WriteFile(file, []byte("-F"), 0o644)
	}
	return nil
}

// labelAll does what setfiles -F does with the target.
func labelAll(args *module.Args, marks *marks, target location, options *selinuxOptions) error {
	if !strings.Contains(options.FileContexts, "://") {
		options.FileContexts = "/" + options.FileContexts // a plain path need not begin with one
	}
	rules, err := parseLocation(args, options.FileContexts)
	if err != nil {
		return err
	}
	contexts, err := selinux.Load(rules.path, func(name string) (fs.File, error) {
		file, err := location{root: rules.root, path: name}.target()
		if err != nil {
			return nil, err
		}
		return os.Open(file)
	})
	if err != nil {
		return fmt.Errorf("file contexts: %w", err)
	}
	top := filepath.Join(target.root, target.path)
	excluded := map[string]bool{}
	for _, name := range options.ExcludePaths {
		excluded[filepath.Join(top, path.Join("/", name))] = true
	}
	linked := map[uint64]bool{}
	return filepath.WalkDir(top, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if excluded[file] && entry.IsDir() { // setfiles excludes directories only
			return filepath.SkipDir
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		below, err := filepath.Rel(target.root, file)
		if err != nil {
			return err
		}
		label, ok, err := contexts.Lookup(path.Join("/", below), stat.Mode)
		if err != nil || !ok {
			return err
		}
		if !entry.IsDir() && stat.Nlink > 1 {
			// Names of one file have the label of the first.
			if linked[stat.Ino] {
				return nil
			}
			linked[stat.Ino] = true
		}
		return marks.label(file, label)
	})
}
