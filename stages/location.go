package stages

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/ossify/ossify/module"
)

// location is a place that a manifest names by URL: tree:///PATH,
// mount://NAME/PATH or input://NAME/PATH.
type location struct {
	// root is the directory of the tree, mount or input.
	root string
	// path is absolute and clean, seen from root.
	path string
	// contents is true if the URL ends in a slash and so means what is in
	// the directory, as rsync has it.
	contents bool
}

// parseLocation reads a URL; text without a scheme is a path of the tree. It
// takes what osbuild/util/parsing.py takes, but for three things that osbuild
// drops without a word: a name in tree://NAME/, a query and a fragment.
func parseLocation(args *module.Args, text string) (location, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "tree", text
	}
	if strings.ContainsAny(rest, "?#\t\r\n") {
		return location{}, fmt.Errorf("location %q holds a character that has no meaning in one (?, #, tab or line end)", text)
	}
	name, path, found := strings.Cut(rest, "/")
	if !found {
		return location{}, fmt.Errorf("location %q has no path: it must have a / after its name", text)
	}
	l := location{path: filepath.Clean("/" + path), contents: path == "" || strings.HasSuffix(path, "/")}
	switch strings.ToLower(scheme) {
	case "tree":
		if name != "" {
			return location{}, fmt.Errorf("location %q must be a path from the root (/...) or tree:///..., without a name", text)
		}
		l.root = args.Tree
	case "mount":
		l.root = args.Paths.Mounts
		if name != "" {
			mount, ok := args.Mounts[name]
			if !ok {
				return location{}, fmt.Errorf("location %q: the stage has no mount %q", text, name)
			}
			l.root = mount.Path
		}
	case "input":
		input, ok := args.Inputs[name]
		if !ok {
			return location{}, fmt.Errorf("location %q: the stage has no input %q", text, name)
		}
		l.root = input.Path
	default:
		return location{}, fmt.Errorf("location %q: unknown scheme %q: known are tree, mount and input", text, scheme)
	}
	if l.root == "" {
		return location{}, fmt.Errorf("location %q: the stage has no directory for it", text)
	}
	return l, nil
}

// entry returns where the location's own directory entry lies. Symbolic links
// on the way are followed inside root, the last one is not, unless the
// location means the contents of a directory.
func (l location) entry() (string, error) {
	if l.contents {
		dir, err := l.target()
		return dir + "/.", err
	}
	dir, err := securejoin.SecureJoin(l.root, filepath.Dir(l.path))
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", l.path, err)
	}
	return filepath.Join(dir, filepath.Base(l.path)), nil
}

// target returns what the location leads to, with every symbolic link
// followed inside root. It need not exist.
func (l location) target() (string, error) {
	path, err := securejoin.SecureJoin(l.root, l.path)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", l.path, err)
	}
	return path, nil
}

// treeEntry is entry for a plain path of the tree.
func treeEntry(args *module.Args, path string) (string, error) {
	return location{root: args.Tree, path: filepath.Clean("/" + path)}.entry()
}

// treeTarget is target for a plain path of the tree.
func treeTarget(args *module.Args, path string) (string, error) {
	return location{root: args.Tree, path: filepath.Clean("/" + path)}.target()
}

// removeFile removes a file or symbolic link, if there is one. It fails for
// every directory, where os.Remove would take an empty one.
func removeFile(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("cannot replace %s: it is a directory", path)
	}
	return os.Remove(path)
}

// replaceFile writes a new file of mode 0644 in the place of whatever file or
// symbolic link was there, and makes the directories that lead to it (0755).
func replaceFile(args *module.Args, path, content string) error {
	entry, err := treeEntry(args, path)
	if err != nil {
		return err
	}
	if err := removeFile(entry); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(entry), 0o755); err != nil {
		return err
	}
	return os.WriteFile(entry, []byte(content), 0o644)
}

// writeFile writes content as Python's open(path, "w") does: a file that is
// there keeps its mode and owner, symbolic links are followed, but only inside
// the tree. A new file has mode 0644; its directory must be there.
func writeFile(args *module.Args, path, content string) error {
	target, err := treeTarget(args, path)
	if err != nil {
		return err
	}
	return os.WriteFile(target, []byte(content), 0o644)
}

// makeDirs makes a directory of the tree and those that lead to it (0755), as
// Python's os.makedirs(path, exist_ok=True) does.
func makeDirs(args *module.Args, path string) error {
	target, err := treeTarget(args, path)
	if err != nil {
		return err
	}
	return os.MkdirAll(target, 0o755)
}

// sameFile fails if a program that opens entry would not get target, because a
// symbolic link leads out of the tree.
func sameFile(entry, target string) error {
	want, err := os.Stat(target)
	if err != nil {
		return err
	}
	got, err := os.Stat(entry)
	if err != nil || !os.SameFile(got, want) {
		return errors.New("it is a symbolic link that leads out of the tree for programs of the build root")
	}
	return nil
}
