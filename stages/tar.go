package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
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
	argv := formatArguments(options)
	if options.Sparse {
		argv = append(argv, "--sparse")
	}
	if options.Transform != "" {
		argv = append(argv, "--transform", options.Transform)
	}
	if options.NumericOwner {
		argv = append(argv, "--numeric-owner")
	}
	names, err := memberNames(source, options)
	if err != nil {
		return err
	}
	argv = append(argv, "--sort=name", "-C", source)
	tool := compressor(options)
	if tool != "" {
		if _, err := module.LookTool(tool); err != nil {
			return fmt.Errorf("%s: %w", tarStage, err)
		}
	}
	devices, err := deviceMembers(source, labels, options)
	if err != nil {
		return err
	}
	if keywords := labelKeywords(options); len(keywords) > 0 && len(labels) > 0 || len(devices) > 0 {
		err = packLabelled(ctx, args, &labelledTar{argv: argv, names: names, target: target, tool: tool, keywords: keywords, labels: labels, devices: devices})
	} else {
		if options.Compression == "" || options.Compression == "auto" {
			argv = append(argv, "--auto-compress")
		} else {
			argv = append(argv, "--"+options.Compression)
		}
		err = pack(ctx, args, append(append(argv, "-cf", target), names...))
	}
	if err != nil {
		return fmt.Errorf("pack %s: %w", options.Filename, err)
	}
	return nil
}

// pack runs tar.
func pack(ctx context.Context, args *module.Args, argv []string) error {
	cmd, err := hostCommand(ctx, args, tarStage, "tar", argv...)
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, compressorEnv)
	return run(cmd)
}

// compressorEnv lets every core compress, like osbuild.
const compressorEnv = "XZ_OPT=--threads 0"

// formatArguments returns the flags for format and metadata. Each of the three
// kinds of metadata makes tar write posix archives whatever the format says.
func formatArguments(options tarOptions) []string {
	format := options.Format
	if format == "" {
		format = "gnu"
	}
	argv := []string{"--format=" + format}
	on := func(flag *bool) bool { return flag == nil || *flag }
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
