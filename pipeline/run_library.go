package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
)

// Python modules of a libdir import the package that lies beside them. A libdir
// is read-only to a stage, so Python would compile that package for every stage
// and import all of it, which takes longer than most stages do: it is copied and
// compiled once for each build root, and shown to stages in its place.

// libraryName is osbuild's package in a libdir.
const libraryName = "osbuild"

// libraries are the compiled packages of this build, by their key.
type libraries struct {
	mu      sync.Mutex
	digests map[string]string
	entries map[string]*libraryEntry
}

type libraryEntry struct {
	once sync.Once
	dir  string
	err  error
}

// libraryDigest covers the package of a libdir; it is empty if there is none.
func (b *builder) libraryDigest(libdir string) (string, error) {
	b.libraries.mu.Lock()
	defer b.libraries.mu.Unlock()
	if sum, ok := b.libraries.digests[libdir]; ok {
		return sum, nil
	}
	var parts []string
	dir, err := findLibrary(libdir)
	if err == nil && dir != "" {
		err = walkLibrary(dir, func(path, rel string) error {
			sum, err := b.Store.Digest(path)
			parts = append(parts, rel, sum)
			return err
		})
	}
	if err != nil {
		return "", fmt.Errorf("package %s of libdir %s: %w", libraryName, libdir, err)
	}
	sum := ""
	if len(parts) > 0 {
		sum = digest(parts...)
	}
	if b.libraries.digests == nil {
		b.libraries.digests = map[string]string{}
	}
	b.libraries.digests[libdir] = sum
	return sum, nil
}

// findLibrary returns the directory of a libdir's package, "" if it has none.
// Where it is empty, as distributions install it, the package is where the
// host's Python finds it (osbuild/buildroot.py).
func findLibrary(libdir string) (string, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(libdir, libraryName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return dir, err
	}
	out, err := exec.Command("python3", "-c", "import importlib.util; print(importlib.util.find_spec('"+libraryName+"').origin)").Output()
	if err != nil {
		return "", errors.New("it is empty, and the host's Python has no such package: install osbuild's (python3-osbuild), or give --libdir a checkout of osbuild")
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// walkLibrary calls visit for each file of a package that is no cache of
// Python's.
func walkLibrary(dir string, visit func(path, rel string) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "__pycache__":
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return visit(path, rel)
	})
}

// library returns the compiled package of a libdir for stages on that build
// root, "" if the libdir has none or the build root no Python.
func (b *builder) library(ctx context.Context, p *Pipeline, root *preparedRoot, libdir string) (string, error) {
	sum, err := b.libraryDigest(libdir)
	if err != nil || sum == "" || !root.root.HasPython() {
		return "", err
	}
	rootKey, err := b.rootKey(p)
	if err != nil {
		return "", err
	}
	key := digest(layerFormat, rootKey, sum, sandbox.LibraryCompiler())
	b.libraries.mu.Lock()
	if b.libraries.entries == nil {
		b.libraries.entries = map[string]*libraryEntry{}
	}
	entry := b.libraries.entries[key]
	if entry == nil {
		entry = &libraryEntry{}
		b.libraries.entries[key] = entry
	}
	b.libraries.mu.Unlock()
	entry.once.Do(func() {
		if entry.dir, entry.err = b.compiledLibrary(ctx, root, libdir, key); entry.err != nil {
			entry.err = fmt.Errorf("compile the package %s of libdir %s: %w", libraryName, libdir, entry.err)
		}
	})
	return entry.dir, entry.err
}

// compiledLibrary finds the compiled package in the store, or makes it.
func (b *builder) compiledLibrary(ctx context.Context, root *preparedRoot, libdir, key string) (dir string, err error) {
	layer, err := b.keepLayer(ctx, &kept{
		name: "ossify-library-" + key, key: key, waiting: "another build on this store compiles a libdir's package",
		fill: func(layer *store.Layer, scratch string, out *capture) error {
			dir, err := b.Store.Upper(layer)
			if err == nil {
				err = copyLibrary(libdir, dir)
			}
			if err != nil {
				return err
			}
			return b.Containers.CompileLibrary(ctx, scratch, root.root, root.layer, dir, out)
		},
	})
	if err != nil {
		return "", err
	}
	return b.Store.Upper(layer)
}

// copyLibrary copies the package of a libdir to dir.
func copyLibrary(libdir, dir string) error {
	from, err := findLibrary(libdir)
	if err != nil {
		return err
	}
	return walkLibrary(from, func(path, rel string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(rel)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), data, 0o644)
	})
}
