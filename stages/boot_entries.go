package stages

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// bootEntry is the file of a boot loader entry.
type bootEntry struct{ location }

// bootEntries returns the files loader/entries/*.conf below boot, sorted by
// name, without hidden ones. A missing directory has none.
func bootEntries(boot location) ([]bootEntry, error) {
	dir := location{root: boot.root, path: filepath.Join(boot.path, "loader/entries")}
	target, err := dir.target()
	if err != nil {
		return nil, err
	}
	files, err := os.ReadDir(target)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("look for boot loader entries: %w", err)
	}
	var entries []bootEntry
	for _, file := range files {
		if strings.HasSuffix(file.Name(), ".conf") && !strings.HasPrefix(file.Name(), ".") {
			entries = append(entries, bootEntry{location{root: dir.root, path: filepath.Join(dir.path, file.Name())}})
		}
	}
	return entries, nil
}

// name is the file's name without its suffix.
func (e bootEntry) name() string {
	return strings.TrimSuffix(filepath.Base(e.path), ".conf")
}

// read returns the entry's text.
func (e bootEntry) read() (string, error) {
	path, err := e.target()
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read boot loader entry: %w", err)
	}
	if !utf8.Valid(data) {
		return "", fmt.Errorf("boot loader entry %s is not UTF-8", e.path)
	}
	return string(data), nil
}
