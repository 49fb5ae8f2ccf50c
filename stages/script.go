package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ossify/ossify/module"
)

// scriptFile is where the script lies in the tree while it runs.
const scriptFile = "/osbuild-script"

type scriptOptions struct {
	Script string `json:"script"`
}

// script runs a script with the tree as its root directory. osbuild dropped
// this stage in 2020; /proc, /dev and /sys are there now if the tree has the
// directories.
func script(ctx context.Context, args *module.Args, options scriptOptions) (err error) {
	path := filepath.Join(args.Tree, scriptFile)
	if err := os.WriteFile(path, []byte(options.Script), 0o550); err != nil {
		return fmt.Errorf("write script: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	if err := os.Chmod(path, 0o550); err != nil {
		return fmt.Errorf("write script: %w", err)
	}
	release, err := mountKernelFilesystems(args, false)
	defer func() { err = errors.Join(err, release()) }()
	if err != nil {
		return err
	}
	err = run(scriptCommand(ctx, args, scriptFile))
	if errors.Is(err, syscall.ENOEXEC) {
		// As chroot(1) does, which calls execvp(3).
		err = run(scriptCommand(ctx, args, "/bin/sh", scriptFile))
	}
	if errors.Is(err, syscall.ENOENT) {
		first, _, _ := strings.Cut(options.Script, "\n")
		return fmt.Errorf("the tree lacks the interpreter of the script (%q): %w", first, err)
	}
	return err
}

func scriptCommand(ctx context.Context, args *module.Args, path string, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, argv...)
	cmd.Dir = "/"
	cmd.Env = module.ToolEnv(args)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: args.Tree}
	return cmd
}
