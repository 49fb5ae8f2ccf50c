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
	"golang.org/x/sys/unix"
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
	err = filepath.WalkDir(top, func(file string, entry fs.DirEntry, err error) error {
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
	if err != nil {
		return err
	}
	if err := labelDevices(marks, contexts, target, excluded); err != nil {
		return err
	}
	return labelLostFound(marks, contexts, target)
}

// labelDevices labels the devices that only the tree's side record has.
func labelDevices(marks *marks, contexts *selinux.Contexts, target location, excluded map[string]bool) error {
	if target.root != marks.tree {
		return nil
	}
	for name, device := range marks.record.Devices(target.root) {
		file := filepath.Join(target.root, name)
		inside := strings.HasPrefix(name, strings.TrimSuffix(target.path, "/")+"/")
		for dir := filepath.Dir(file); dir != target.root && inside; dir = filepath.Dir(dir) {
			inside = !excluded[dir]
		}
		if !inside {
			continue
		}
		kind := uint32(unix.S_IFCHR)
		if device.Kind == 'b' {
			kind = unix.S_IFBLK
		}
		label, ok, err := contexts.Lookup(name, kind)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := marks.label(file, label); err != nil {
			return err
		}
	}
	return nil
}

// labelLostFound records the labels of the directories that mkfs makes in the root
// of a filesystem, which is / or lies below it.
func labelLostFound(marks *marks, contexts *selinux.Contexts, target location) error {
	if target.root != marks.tree || target.path != "/" {
		return nil
	}
	tops, err := os.ReadDir(target.root)
	if err != nil {
		return err
	}
	dirs := []string{"/"}
	for _, top := range tops {
		if top.IsDir() {
			dirs = append(dirs, "/"+top.Name())
		}
	}
	for _, dir := range dirs {
		name := path.Join(dir, "lost+found")
		if _, err := os.Lstat(filepath.Join(target.root, name)); err == nil {
			continue
		}
		label, ok, err := contexts.Lookup(name, unix.S_IFDIR)
		if err != nil {
			return err
		}
		if ok {
			marks.record.SetLabel(name, label)
			marks.changed = true
		}
	}
	return nil
}
