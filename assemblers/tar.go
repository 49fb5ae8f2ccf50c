package assemblers

import (
	"context"
	"errors"
	"fmt"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
	"github.com/ossify/ossify/tarpack"
)

type tarOptions struct {
	Filename    string `json:"filename"`
	Compression string `json:"compression"`
	ACLs        *bool  `json:"acls"`
	SELinux     *bool  `json:"selinux"`
	XAttrs      *bool  `json:"xattrs"`
}

// tar packs the input "tree". As in the stage of that name, members are sorted
// and without times of access and inode change, so that one tree makes one
// archive.
func tar(ctx context.Context, args *module.Args, options tarOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	source := args.Inputs["tree"].Path
	if source == "" {
		return errors.New(`the assembler lacks the input "tree"`)
	}
	target, err := args.InTree(options.Filename)
	if err != nil {
		return err
	}
	labels, err := record.Open(args.Inputs["tree"].Record)
	if err != nil {
		return err
	}
	metadata := metadataArguments(options)
	if len(metadata) > 0 {
		metadata = append(metadata, "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime")
	}
	archive := &tarpack.Archive{
		Module: "org.osbuild.tar", Flags: append(metadata, "--sort=name"), Tree: source, Names: []string{"."}, Compressor: options.Compression,
		Record: labels, Keywords: tarpack.LabelKeywords(on(options.SELinux), on(options.XAttrs)), Prefix: "./",
	}
	if err := archive.Write(ctx, args, target); err != nil {
		return fmt.Errorf("pack %s: %w", options.Filename, err)
	}
	return nil
}

// metadataArguments are the flags for what is kept beside owner, mode and time.
func metadataArguments(options tarOptions) []string {
	var argv []string
	if on(options.ACLs) {
		argv = append(argv, "--acls")
	}
	if on(options.SELinux) {
		argv = append(argv, "--selinux")
	}
	if on(options.XAttrs) {
		argv = append(argv, "--xattrs", "--xattrs-include", "*")
	}
	return argv
}

// on tells whether something is packed that is unless the options say otherwise.
func on(flag *bool) bool { return flag == nil || *flag }
