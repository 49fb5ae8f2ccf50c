package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"

	"github.com/ossify/ossify/store"
)

// layerFormat changes when layers of older versions must not be used again.
const layerFormat = "2"

// computeKeys gives each stage the key of its checkpoint: what besides the
// stage id has to be equal for the checkpoint to be used again. It covers the
// module's and the runner's code, the build root, the base and the trees that
// are inputs, each through its own key; so it can be computed without the store.
func (b *builder) computeKeys() error {
	b.keys = map[*Stage]string{}
	host, err := hostFingerprint(b.Store)
	if err != nil {
		return err
	}
	b.hostKey = host
	for _, p := range b.manifest.Pipelines {
		if err := b.pipelineKeys(p); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) pipelineKeys(p *Pipeline) error {
	if len(p.Stages) == 0 || b.keys[p.Stages[len(p.Stages)-1]] != "" {
		return nil
	}
	root, err := b.rootKey(p)
	if err != nil {
		return err
	}
	base := ""
	for _, s := range p.Stages {
		code, err := b.Store.Digest(s.Module.Path)
		if err != nil {
			return fmt.Errorf("stage %s: %w", s.Name, err)
		}
		parts := []string{layerFormat, root, base, code}
		library, err := b.libraryDigest(s.Module.Libdir)
		if err != nil {
			return fmt.Errorf("stage %s: %w", s.Name, err)
		}
		if library != "" {
			parts = append(parts, library)
		}
		if b.diskWriter(s) == DiskMounted {
			parts = append(parts, DiskMounted)
		}
		for _, dep := range s.Dependencies() {
			if err := b.pipelineKeys(dep); err != nil {
				return err
			}
			parts = append(parts, b.topKey(dep))
		}
		for _, in := range s.Inputs {
			code, err := b.Store.Digest(in.Module.Path)
			if err != nil {
				return fmt.Errorf("input %s: %w", in.Name, err)
			}
			parts = append(parts, code)
		}
		for _, m := range s.attachments() {
			code, err := b.Store.Digest(m.Path)
			if err != nil {
				return fmt.Errorf("stage %s: %w", s.Name, err)
			}
			parts = append(parts, code)
		}
		base = digest(parts...)
		b.keys[s] = base
	}
	return nil
}

// topKey is the key of a pipeline's tree.
func (b *builder) topKey(p *Pipeline) string {
	if len(p.Stages) == 0 {
		return "empty"
	}
	return b.keys[p.Stages[len(p.Stages)-1]]
}

// rootKey covers the build root of a pipeline as its runner leaves it.
func (b *builder) rootKey(p *Pipeline) (string, error) {
	runner, err := b.Store.Digest(p.Runner.Path)
	if err != nil {
		return "", fmt.Errorf("runner %s: %w", p.Runner.Name, err)
	}
	system := b.hostKey
	if p.Build != nil {
		if err := b.pipelineKeys(p.Build); err != nil {
			return "", err
		}
		system = b.topKey(p.Build)
	}
	parts := []string{layerFormat, system, runner, p.Runner.Name}
	library, err := b.libraryDigest(libdirOf(p.Runner))
	if err != nil {
		return "", fmt.Errorf("runner %s: %w", p.Runner.Name, err)
	}
	if library != "" {
		parts = append(parts, library)
	}
	return digest(parts...), nil
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// packageDatabases are the files that change whenever packages of the host do.
var packageDatabases = []string{
	"/var/lib/dpkg/status",
	"/usr/lib/sysimage/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/Packages.db",
	"/var/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages",
	"/lib/apk/db/installed",
}

// hostFingerprint covers what of the host can change a stage's result when the
// host is the build root.
func hostFingerprint(s *store.Store) (string, error) {
	var parts []string
	for _, path := range append([]string{"/etc/os-release"}, packageDatabases...) {
		sum, err := s.Digest(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("fingerprint of this host: %w", err)
		}
		parts = append(parts, path, sum)
	}
	// pacman keeps a folder for each package and version.
	if entries, err := os.ReadDir("/var/lib/pacman/local"); err == nil {
		for _, e := range entries {
			parts = append(parts, e.Name())
		}
	}
	return digest(parts...), nil
}

// sortedKeys returns a map's keys in order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
