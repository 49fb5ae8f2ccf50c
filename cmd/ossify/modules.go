package main

import (
	"embed"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/assemblers"
	"github.com/ossify/ossify/inputs"
	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/runners"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/sources"
	"github.com/ossify/ossify/stages"
	"github.com/ossify/ossify/store"
)

// family is one folder of a libdir.
type family struct {
	folder, class string
	table         []module.Module
	schemas       embed.FS
}

func families() []family {
	return []family{
		{"stages", "Stage", stages.All, stages.Schemas},
		{"assemblers", "Assembler", assemblers.All, assemblers.Schemas},
		{"sources", "Source", sources.All, sources.Schemas},
		{"inputs", "Input", inputs.All, inputs.Schemas},
		{"runners", "Runner", runners.All, runners.Schemas},
	}
}

// nativeModule returns the module that this process was started as: by its
// name, and by its family, which is the folder of a host service and a variable
// inside the sandbox.
func nativeModule() (module.Module, bool) {
	name := filepath.Base(os.Args[0])
	folder := filepath.Base(filepath.Dir(os.Args[0]))
	class := os.Getenv(sandbox.ClassEnv)
	for _, f := range families() {
		if f.folder != folder && f.class != class {
			continue
		}
		if m, ok := module.Find(f.table, name); ok {
			return m, true
		}
	}
	return module.Module{}, false
}

// nativeLibdir returns the libdir of this program's own modules in the store,
// which it makes the first time. It holds a copy of the program, so that a
// build goes on with what it started with while the program is replaced.
func nativeLibdir(s *store.Store) (string, error) {
	digest, err := s.Digest(sandbox.Program())
	if err != nil {
		return "", fmt.Errorf("find native modules: %w", err)
	}
	dir := filepath.Join(s.Dir(), "lib", digest[:32])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, remove, err := s.Scratch("lib-")
	if err != nil {
		return "", err
	}
	defer remove()
	if err := writeLibdir(tmp); err != nil {
		return "", fmt.Errorf("install native modules: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr == nil {
			return dir, nil // another build was quicker
		}
		return "", fmt.Errorf("install native modules: %w", err)
	}
	return dir, nil
}

func writeLibdir(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	if err := copyProgram(filepath.Join(dir, "bin", "ossify")); err != nil {
		return err
	}
	for _, f := range families() {
		folder := filepath.Join(dir, f.folder)
		if err := os.Mkdir(folder, 0o755); err != nil {
			return err
		}
		for _, m := range f.table {
			if err := os.Symlink("../bin/ossify", filepath.Join(folder, m.Name)); err != nil {
				return err
			}
			meta := m.Name + ".meta.json"
			data, err := fs.ReadFile(f.schemas, meta)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(folder, meta), data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyProgram(path string) error {
	src, err := os.Open(sandbox.Program())
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
