package stages

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
	"github.com/ossify/ossify/tarpack"
)

const tarStage = "org.osbuild.tar"

type tarOptions struct {
	Filename     string   `json:"filename"`
	Format       string   `json:"format"`
	Compression  string   `json:"compression"`
	ACLs         *bool    `json:"acls"`
	SELinux      *bool    `json:"selinux"`
	XAttrs       *bool    `json:"xattrs"`
	RootNode     string   `json:"root-node"`
	Paths        []string `json:"paths"`
	Sparse       bool     `json:"sparse"`
	Transform    string   `json:"transform"`
	NumericOwner bool     `json:"numeric-owner"`
}

// tarTree packs the input "tree" into an archive in the tree. Members are
// sorted and without times of access and inode change, so that one tree always
// makes one archive, which osbuild does not promise.
func tarTree(ctx context.Context, args *module.Args, options tarOptions) error {
	source := args.Inputs["tree"].Path
	if source == "" {
		return errors.New(`the stage lacks the input "tree"`)
	}
	target, err := treeEntry(args, options.Filename)
	if err != nil {
		return err
	}
	labels, err := record.Open(args.Inputs["tree"].Record)
	if err != nil {
		return err
	}
	flags := formatArguments(options)
	if options.Sparse {
		flags = append(flags, "--sparse")
	}
	if options.Transform != "" {
		flags = append(flags, "--transform", options.Transform)
		if devices := labels.Devices(source); len(devices) > 0 {
			return fmt.Errorf("pack %s: the tree has device nodes in its side record (%s), whose names cannot be transformed: pack them without transform", options.Filename, slices.Sorted(maps.Keys(devices))[0])
		}
	}
	if options.NumericOwner {
		flags = append(flags, "--numeric-owner")
	}
	names, err := memberNames(source, options)
	if err != nil {
		return err
	}
	archive := &tarpack.Archive{
		Module: tarStage, Flags: append(flags, "--sort=name"), Tree: source, Names: names, Compressor: compressor(options),
		Record: labels, Keywords: tarpack.LabelKeywords(on(options.SELinux), on(options.XAttrs)), Below: options.Paths,
	}
	if options.RootNode != "omit" && len(options.Paths) == 0 {
		archive.Prefix = "./"
	}
	if err := archive.Write(ctx, args, target); err != nil {
		return fmt.Errorf("pack %s: %w", options.Filename, err)
	}
	return nil
}

// formatArguments returns the flags for format and metadata. Each of the three
// kinds of metadata makes tar write posix archives whatever the format says.
func formatArguments(options tarOptions) []string {
	format := options.Format
	if format == "" {
		format = "gnu"
	}
	argv := []string{"--format=" + format}
	if on(options.ACLs) {
		argv, format = append(argv, "--acls"), "posix"
	}
	if on(options.SELinux) {
		argv, format = append(argv, "--selinux"), "posix"
	}
	if on(options.XAttrs) {
		argv, format = append(argv, "--xattrs", "--xattrs-include", "*"), "posix"
	}
	if format == "posix" {
		argv = append(argv, "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime")
	}
	return argv
}

// memberNames returns what tar is to pack, seen from the source.
func memberNames(source string, options tarOptions) ([]string, error) {
	if len(options.Paths) > 0 {
		return options.Paths, nil
	}
	if options.RootNode != "omit" {
		return []string{"."}, nil
	}
	entries, err := os.ReadDir(source)
	if err != nil {
		return nil, fmt.Errorf("list the tree to pack: %w", err)
	}
	// Names could look like flags to tar.
	names := []string{"--"}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}

// compressor returns the program that tar will call, or "".
func compressor(options tarOptions) string {
	if options.Compression != "" && options.Compression != "auto" {
		return options.Compression
	}
	suffix := filepath.Ext(options.Filename)
	switch strings.TrimPrefix(suffix, ".") {
	case "gz", "tgz", "taz":
		return "gzip"
	case "bz2", "tbz", "tbz2", "tz2":
		return "bzip2"
	case "Z", "taZ":
		return "compress"
	case "lz":
		return "lzip"
	case "lzma", "tlz":
		return "lzma"
	case "lzo":
		return "lzop"
	case "xz", "txz":
		return "xz"
	case "zst", "tzst":
		return "zstd"
	}
	return ""
}
