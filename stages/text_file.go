package stages

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/ossify/ossify/module"
)

// readText reads a text file of the tree, which must be UTF-8; every kind of
// line end becomes "\n", as when Python reads it.
func readText(args *module.Args, path string) (string, error) {
	target, err := treeTarget(args, path)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(target)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(data) {
		return "", fmt.Errorf("%s is not UTF-8 text", target)
	}
	return pythonLines(data), nil
}

// readTextIfThere is readText, with no text for a file that does not exist.
func readTextIfThere(args *module.Args, path string) (string, error) {
	text, err := readText(args, path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return text, err
}

// writeWithParents is writeFile that makes the directories before.
func writeWithParents(args *module.Args, path, content string) error {
	if strings.HasSuffix(path, "/") {
		return fmt.Errorf("path %q names a directory: it must name a file", path)
	}
	if err := makeDirs(args, filepath.Dir("/"+path)); err != nil {
		return err
	}
	return writeFile(args, path, content)
}

// createFile writes a file that must not be there, nor a link, and makes the
// directories that lead to it.
func createFile(args *module.Args, path, content string) (err error) {
	entry, err := treeEntry(args, path)
	if err != nil {
		return err
	}
	if err := makeDirs(args, filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(entry, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.WriteString(content)
	return err
}

// rewriteInPlace puts a new file of the same mode in the place of a file or of
// a link to one, as Python's fileinput does; PATH.bak, its copy, is gone after.
func rewriteInPlace(args *module.Args, path, content string) error {
	target, err := treeTarget(args, path)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	entry, err := treeEntry(args, path)
	if err != nil {
		return err
	}
	for _, old := range []string{entry, entry + ".bak"} {
		if err := removeFile(old); err != nil {
			return err
		}
	}
	if err := os.WriteFile(entry, []byte(content), info.Mode().Perm()); err != nil {
		return err
	}
	// The umask does not apply, and set-id bits stay.
	return os.Chmod(entry, info.Mode())
}

// lineSetting is one line of a configuration file that has no sections.
type lineSetting struct{ name, value string }

// setLines gives the first line of each name its value and adds, in their
// order, the settings that have no line. Names and values stand around the
// separator; sameName says whether a line's name is that of a setting.
func setLines(text, separator string, settings []lineSetting, sameName func(line, setting string) bool) string {
	var out strings.Builder
	done := make([]bool, len(settings))
	for line := range strings.Lines(text) {
		parts := strings.Split(line, separator)
		for i, setting := range settings {
			if len(parts) != 2 || done[i] || !sameName(parts[0], setting.name) {
				continue
			}
			done[i] = true
			if parts[1] != setting.value {
				line = parts[0] + separator + setting.value + "\n"
			}
			break
		}
		out.WriteString(line)
	}
	for i, setting := range settings {
		if done[i] {
			continue
		}
		if text := out.String(); text != "" && !strings.HasSuffix(text, "\n") {
			out.WriteByte('\n')
		}
		out.WriteString(setting.name + separator + setting.value + "\n")
	}
	return out.String()
}
