package assemblers

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ossify/ossify/module"
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
	argv := []string{"--sort=name"}
	if options.Compression != "" {
		if _, err := module.LookTool(options.Compression); err != nil {
			return fmt.Errorf("org.osbuild.tar: %w", err)
		}
		argv = append(argv, "--"+options.Compression)
	}
	metadata := metadataArguments(options)
	argv = append(argv, metadata...)
	if len(metadata) > 0 {
		argv = append(argv, "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime")
	}
	cmd, err := module.HostCommand(ctx, args, "org.osbuild.tar", "tar", append(argv, "-cf", target, "-C", source, ".")...)
	if err != nil {
		return err
	}
	// Like osbuild: every core compresses.
	cmd.Env = append(cmd.Env, "XZ_OPT=--threads 0")
	if err := module.RunTool(cmd, io.Discard); err != nil {
		return fmt.Errorf("pack %s: %w", options.Filename, err)
	}
	return nil
}

// metadataArguments are the flags for what is kept beside owner, mode and time.
func metadataArguments(options tarOptions) []string {
	var argv []string
	on := func(flag *bool) bool { return flag == nil || *flag }
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
