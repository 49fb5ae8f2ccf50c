package stages

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ossify/ossify/module"
)

type yumOptions struct {
	Repos      []rpmRepo `json:"repos"`
	Packages   []string  `json:"packages"`
	ReleaseVer string    `json:"releasever"`
	Operation  string    `json:"operation"`
	Verbosity  string    `json:"verbosity"`
}

// installWithYum solves, downloads and installs packages with the build root's
// yum.
func installWithYum(ctx context.Context, args *module.Args, options yumOptions) (err error) {
	release, err := mountKernelFilesystems(args, true)
	defer func() { err = errors.Join(err, release()) }()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "yum-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	config, err := writeRepos(dir, "yum.conf", "", options.Repos)
	if err != nil {
		return err
	}
	operation, verbosity := options.Operation, options.Verbosity
	if operation == "" {
		operation = "install"
	}
	if verbosity == "" {
		verbosity = "info"
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.yum", "yum", append([]string{
		"--assumeyes", "--installroot=" + args.Tree, "--setopt=reposdir=", "--releasever=" + options.ReleaseVer,
		"--rpmverbosity=" + verbosity, "--config=" + config, operation,
	}, options.Packages...)...)
	if err != nil {
		return err
	}
	cmd.Env = os.Environ()
	if err := run(cmd); err != nil {
		return fmt.Errorf("%s packages: %w", operation, err)
	}
	return nil
}
