package stages

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
)

const squashfsStage = "org.osbuild.squashfs"

type squashfsOptions struct {
	Filename     string   `json:"filename"`
	Source       string   `json:"source"`
	ExcludePaths []string `json:"exclude_paths"`
	Compression  *struct {
		Method  string          `json:"method"`
		Options ordered[string] `json:"options"`
	} `json:"compression"`
}

// squashfs makes a squashfs of the input "tree" or of another source. An image
// that is there gets the files added.
func squashfs(ctx context.Context, args *module.Args, options squashfsOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	source, labels, err := imageSource(args, options.Source)
	if err != nil {
		return err
	}
	target, err := treeTarget(args, options.Filename)
	if err != nil {
		return err
	}
	argv := []string{source, target}
	if c := options.Compression; c != nil {
		argv = append(argv, "-comp", c.Method)
		for _, option := range c.Options {
			argv = append(argv, "-X"+option.name, option.value)
		}
	}
	if len(labels) > 0 {
		if len(options.ExcludePaths) > 0 {
			if devices := labels.Devices(source); len(devices) > 0 {
				return fmt.Errorf("make %q: the tree has device nodes in its side record (%s), which exclude_paths cannot leave out: pack them without exclude_paths", options.Filename, slices.Sorted(maps.Keys(devices))[0])
			}
		}
		file, err := squashfsPseudoFile(ctx, args, source, labels)
		if err != nil {
			return fmt.Errorf("make %q: %w", options.Filename, err)
		}
		defer os.Remove(file)
		argv = append(argv, "-pf", file)
	}
	if len(options.ExcludePaths) > 0 {
		// Everything after -e is a path.
		argv = append(append(argv, "-regex", "-e"), options.ExcludePaths...)
	}
	cmd, err := hostCommand(ctx, args, squashfsStage, "mksquashfs", argv...)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return fmt.Errorf("make %q: %w", options.Filename, err)
	}
	return nil
}

// squashfsPseudoFile writes a temporary file that tells mksquashfs of the labels
// and devices of a side record, see "Pseudo file definitions" in mksquashfs(1).
func squashfsPseudoFile(ctx context.Context, args *module.Args, source string, labels record.Record) (string, error) {
	devices := labels.Devices(source)
	var epoch int64
	if args.Meta.SourceEpoch != nil {
		epoch = *args.Meta.SourceEpoch
	}
	var text strings.Builder
	labelled := false
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if strings.ContainsAny(name, "\n") {
			return "", fmt.Errorf("%q has a line end in its name, so mksquashfs cannot be given its label: rename it", name)
		}
		quoted := `"` + squashfsEscaper().Replace(name) + `"`
		if d, ok := devices[name]; ok {
			fmt.Fprintf(&text, "%s %c %d %04o %d %d %d %d\n", quoted, d.Kind-'a'+'A', epoch, d.Mode, d.UID, d.GID, d.Major, d.Minor)
		}
		if label := labels[name].Label; label != "" {
			labelled = true
			fmt.Fprintf(&text, "%s x security.selinux=0x%x00\n", quoted, label) // with its NUL
		}
	}
	if labelled {
		if err := canLabelSquashfs(ctx, args); err != nil {
			return "", err
		}
	}
	file, err := os.CreateTemp("", "pseudo-")
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text.String())
	if err := errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

// squashfsEscaper escapes a name in quotes.
func squashfsEscaper() *strings.Replacer { return strings.NewReplacer(`\`, `\\`, `"`, `\"`) }

// canLabelSquashfs fails if mksquashfs cannot be given extended attributes, which
// came with version 4.6.
func canLabelSquashfs(ctx context.Context, args *module.Args) error {
	cmd, err := hostCommand(ctx, args, squashfsStage, "mksquashfs", "-help")
	if err != nil {
		return err
	}
	// It ends with an error status in some versions.
	said, _ := cmd.CombinedOutput()
	if !strings.Contains(string(said), "x name=val") {
		return errors.New("the tree has SELinux labels in its side record, which the build root's mksquashfs cannot be given: use squashfs-tools 4.6 or later there")
	}
	return nil
}

// imageSource returns the directory that a read-only filesystem is made of, a
// location or the input "tree", and what side records have of it.
func imageSource(args *module.Args, source string) (string, record.Record, error) {
	if source == "" {
		input := args.Inputs["tree"]
		if input.Path == "" {
			return "", nil, errors.New(`the stage lacks the input "tree"`)
		}
		labels, err := record.Open(input.Record)
		return input.Path, labels, err
	}
	place, err := parseLocation(args, source)
	if err != nil {
		return "", nil, err
	}
	dir, err := place.target()
	if err != nil {
		return "", nil, err
	}
	file := ""
	if place.root == args.Tree {
		file = args.Record
	}
	for _, input := range args.Inputs {
		if place.root == input.Path {
			file = input.Record
		}
	}
	labels, err := record.Open(file)
	if err != nil {
		return "", nil, err
	}
	below, err := filepath.Rel(place.root, dir)
	if err != nil {
		return "", nil, err
	}
	return dir, labels.Below(path.Join("/", below)), nil
}
