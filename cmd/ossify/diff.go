package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/pyjson"
	"github.com/ossify/ossify/record"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// errDiffer is the status of diff for trees that differ.
var errDiffer = reportedError{exitFailed}

func diffCommand() *cobra.Command {
	var o storeOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Compare two trees",
		Long: `Compares two trees, each a directory (with a slash in its name, or one that is there) or
the beginning of a stage id whose checkpoint is in the store. One line is printed for each
path that differs in type, mode, owner, content, target, attributes or SELinux label; times
do not count.

The status is 0 if the trees are equal, 1 if they differ and 2 if they cannot be compared.
With --json the output is that of osbuild's tree-diff, and the status 0 also if they differ.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError{fmt.Errorf("two trees are needed, got %d arguments", len(args))}
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			ids, _ := completeIDs(&o, 2)(cmd, args, prefix)
			return ids, cobra.ShellCompDirectiveDefault // directories, too
		},
		RunE: func(_ *cobra.Command, args []string) error {
			err := diffTrees(&o, args[0], args[1], asJSON)
			if err != nil && !errors.Is(err, errReported) {
				return usageError{err}
			}
			return err
		},
	}
	o.addStore(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the differences as osbuild's tree-diff does")
	return cmd
}

func diffTrees(o *storeOptions, a, b string, asJSON bool) (err error) {
	trees, release, err := openTrees(o, a, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return printDiff(trees, asJSON)
}

// printDiff prints in what two trees differ.
func printDiff(trees []overlay.Tree, asJSON bool) error {
	if asJSON {
		return diffJSON(os.Stdout, trees)
	}
	differ := false
	err := overlay.Compare(trees[0], trees[1], func(d overlay.Difference) error {
		differ = true
		_, err := fmt.Println(diffLine(d))
		return err
	})
	if err == nil && differ {
		return errDiffer
	}
	return err
}

// openTrees opens the trees that the arguments name. Only for checkpoints the store
// is needed, and the user namespace that can read it.
func openTrees(o *storeOptions, names ...string) (trees []overlay.Tree, release func() error, err error) {
	release = func() error { return nil }
	var s *store.Store
	for _, name := range names {
		if st, err := os.Stat(name); err == nil && st.IsDir() {
			trees = append(trees, overlay.Tree{Dir: name})
			continue
		}
		if !isStageID(name) {
			return nil, nil, fmt.Errorf("%s is neither a directory nor the beginning of a stage id", name)
		}
		if s == nil {
			if err := sandbox.EnterNamespace(); err != nil {
				return nil, nil, err
			}
			if s, err = store.Open(o.store, o.rundir); err != nil {
				return nil, nil, err
			}
			release = s.Close
		}
		tree, unmount, err := openCheckpoint(s, name)
		if err != nil {
			return nil, nil, errors.Join(err, release())
		}
		closeRest := release
		release = func() error { return errors.Join(unmount(), closeRest()) }
		trees = append(trees, tree)
	}
	return trees, release, nil
}

// openCheckpoint mounts a checkpoint until release is called.
func openCheckpoint(s *store.Store, id string) (tree overlay.Tree, release func() error, err error) {
	layer, err := s.Checkpoint(id)
	if err != nil {
		return tree, nil, err
	}
	return mountLayer(s, layer)
}

// openLayer mounts a layer, or an empty directory if there is none, until release is called.
func openLayer(s *store.Store, id string) (tree overlay.Tree, release func() error, err error) {
	if id == "" {
		tree.Dir, release, err = s.Scratch("empty-")
		if err == nil {
			err = os.Chmod(tree.Dir, 0o755)
		}
		return tree, release, err
	}
	layer, err := s.Layer(id)
	if err != nil {
		return tree, nil, err
	}
	return mountLayer(s, layer)
}

func mountLayer(s *store.Store, layer *store.Layer) (tree overlay.Tree, release func() error, err error) {
	data, err := s.Record(layer)
	if err == nil {
		tree.Record, err = record.Decode(strings.NewReader(string(data)))
	}
	if err != nil {
		return tree, nil, err
	}
	stack, err := s.ReadOnly(layer)
	if err != nil {
		return tree, nil, err
	}
	dir, remove, err := s.Scratch("diff-")
	if err != nil {
		return tree, nil, err
	}
	unmount, err := stack.Mount(dir)
	if err != nil {
		return tree, nil, errors.Join(err, remove())
	}
	tree.Dir = dir
	return tree, func() error { return errors.Join(unmount(), remove()) }, nil
}

func isStageID(text string) bool {
	return len(text) >= 4 && len(text) <= 64 && strings.Trim(text, "0123456789abcdef") == ""
}

// diffLine is one line for people.
func diffLine(d overlay.Difference) string {
	switch {
	case d.A == nil:
		return "+ " + printable(d.B.Path) + ": " + describe(d.B)
	case d.B == nil:
		return "- " + printable(d.A.Path) + ": " + describe(d.A)
	}
	return "~ " + printable(d.A.Path) + ": " + changes(d)
}

// changes says in what the file at a path differs that both trees have.
func changes(d overlay.Difference) string {
	if d.A.Mode&unix.S_IFMT != d.B.Mode&unix.S_IFMT {
		return describe(d.A) + " -> " + describe(d.B)
	}
	var parts []string
	part := func(what, a, b string) {
		if a != b {
			parts = append(parts, fmt.Sprintf("%s %s -> %s", what, a, b))
		}
	}
	part("mode", fmt.Sprintf("%04o", d.A.Mode&0o7777), fmt.Sprintf("%04o", d.B.Mode&0o7777))
	part("owner", owner(d.A), owner(d.B))
	part("target", printable(d.A.Target), printable(d.B.Target))
	part("device", device(d.A), device(d.B))
	if d.Content {
		if d.A.Size != d.B.Size {
			part("content", fmt.Sprintf("%d bytes", d.A.Size), fmt.Sprintf("%d bytes", d.B.Size))
		} else {
			parts = append(parts, fmt.Sprintf("content of %d bytes", d.A.Size))
		}
	}
	part("label", orNone(printable(d.A.Label)), orNone(printable(d.B.Label)))
	part("flags", fmt.Sprintf("%#x", d.A.Flags), fmt.Sprintf("%#x", d.B.Flags))
	for _, name := range attributeNames(d) {
		a, inA := d.A.Attributes[name]
		b, inB := d.B.Attributes[name]
		part("attribute "+printable(name), quoteIf(a, inA), quoteIf(b, inB))
	}
	return strings.Join(parts, "; ")
}

// describe says what a file is.
func describe(f *overlay.File) string {
	kind, more := "file", ""
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		kind = "dir"
	case unix.S_IFLNK:
		return "link " + printable(f.Target) + " " + owner(f)
	case unix.S_IFCHR:
		kind, more = "char", " "+device(f)
	case unix.S_IFBLK:
		kind, more = "block", " "+device(f)
	case unix.S_IFIFO:
		kind = "fifo"
	case unix.S_IFSOCK:
		kind = "socket"
	default:
		more = fmt.Sprintf(" %d bytes", f.Size)
	}
	return fmt.Sprintf("%s %04o %s%s", kind, f.Mode&0o7777, owner(f), more)
}

// printable quotes a name that a terminal would not show as it is.
func printable(name string) string {
	if quoted := strconv.Quote(name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}

func owner(f *overlay.File) string { return fmt.Sprintf("%d:%d", f.UID, f.GID) }

func device(f *overlay.File) string {
	return fmt.Sprintf("%d:%d", unix.Major(f.Device), unix.Minor(f.Device))
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func quoteIf(value string, there bool) string {
	if !there {
		return "none"
	}
	return strconv.Quote(value)
}

// attributeNames are the names of the attributes of both files, sorted.
func attributeNames(d overlay.Difference) []string {
	var names []string
	for _, f := range []*overlay.File{d.A, d.B} {
		for name := range f.Attributes {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// timestamped are files whose content tree-diff does not show, as they hold the
// time at which they were made (osbuild's tools/tree-diff).
var timestamped = []string{"aux-cache", "rpmdb.sqlite", "cacerts", "shadow", "shadow-"}

// diffJSON prints what tree-diff does, with paths in order.
func diffJSON(w io.Writer, trees []overlay.Tree) error {
	added, deleted, differences := []any{}, []any{}, pyjson.NewObject()
	skip := "" // tree-diff does not look below a directory of another mode
	err := overlay.Compare(trees[0], trees[1], func(d overlay.Difference) error {
		if f := cmp.Or(d.A, d.B); skip != "" && strings.HasPrefix(f.Path, skip) {
			return nil
		}
		switch {
		case d.A == nil:
			added = append(added, pyText(d.B.Path))
		case d.B == nil:
			deleted = append(deleted, pyText(d.A.Path))
		default:
			if d.A.Mode != d.B.Mode && d.A.Path != "/" {
				skip = d.A.Path + "/"
			}
			properties, err := jsonDifference(d)
			if err == nil && len(properties.Values) > 0 {
				differences.Set(pyText(d.A.Path), properties)
			}
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	byText := func(a, b any) int { return cmp.Compare(a.(string), b.(string)) }
	slices.SortFunc(added, byText)
	slices.SortFunc(deleted, byText)
	report := pyjson.NewObject("added_files", added, "deleted_files", deleted, "differences", differences)
	var out bytes.Buffer
	if err := json.Indent(&out, pyjson.Dumps(report, true), "", "  "); err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(w)
	return err
}

// pyText is a path as Python has it: a byte that is no UTF-8 is a lone surrogate,
// U+DC00 plus the byte (os.fsdecode), which pyjson takes in three bytes.
func pyText(name string) string {
	var out []byte
	for i := 0; i < len(name); {
		r, size := utf8.DecodeRuneInString(name[i:])
		if r == utf8.RuneError && size == 1 {
			out = append(out, 0xed, 0xb0|name[i]>>6, 0x80|name[i]&0x3f)
		} else {
			out = append(out, name[i:i+size]...)
		}
		i += size
	}
	return string(out)
}

// jsonDifference is what tree-diff has of a path: after a difference of modes it
// looks no further than at the label.
func jsonDifference(d overlay.Difference) (*pyjson.Object, error) {
	out := pyjson.NewObject()
	number := func(n uint32) any { return json.Number(strconv.FormatUint(uint64(n), 10)) }
	if d.A.Label != d.B.Label {
		out.Set("selinux", []any{d.A.Label, d.B.Label})
	}
	if d.A.Mode != d.B.Mode {
		out.Set("mode", []any{number(d.A.Mode), number(d.B.Mode)})
		return out, nil
	}
	if d.A.UID != d.B.UID {
		out.Set("uid", []any{number(d.A.UID), number(d.B.UID)})
	}
	if d.A.GID != d.B.GID {
		out.Set("gid", []any{number(d.A.GID), number(d.B.GID)})
	}
	if d.A.Target != d.B.Target {
		out.Set("symlink", []any{pyText(d.A.Target), pyText(d.B.Target)})
	}
	if !d.Content {
		return out, nil
	}
	if slices.Contains(timestamped, path.Base(d.A.Path)) {
		out.Set("content", []any{nil, nil})
		return out, nil
	}
	a, err := d.A.Sum()
	if err != nil {
		return nil, err
	}
	b, err := d.B.Sum()
	if err != nil {
		return nil, err
	}
	out.Set("content", []any{"sha256:" + a, "sha256:" + b})
	return out, nil
}
