package stages

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/ossify/ossify/module"
)

// hostCommand makes a command of a program of the build root.
func hostCommand(ctx context.Context, args *module.Args, stage, tool string, argv ...string) (*exec.Cmd, error) {
	return module.HostCommand(ctx, args, stage, tool, argv...)
}

// treeCommand makes a command of the tree's own program, with the tree as its
// root directory.
func treeCommand(ctx context.Context, args *module.Args, stage, tool string, argv ...string) (*exec.Cmd, error) {
	path, err := module.LookToolIn(args.Tree, tool)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stage, err)
	}
	cmd := exec.CommandContext(ctx, path, argv...)
	cmd.Dir = "/"
	cmd.Env = module.ToolEnv(args)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: args.Tree}
	return cmd, nil
}

// accountCommand makes a command of shadow-utils for the tree: the tree's own
// program, or that of the build root with --root if the tree has none.
func accountCommand(ctx context.Context, args *module.Args, stage, tool string, argv ...string) (*exec.Cmd, error) {
	if _, err := module.LookToolIn(args.Tree, tool); err == nil {
		return treeCommand(ctx, args, stage, tool, argv...)
	}
	if _, err := module.LookTool(tool); err != nil {
		missing := &module.MissingTool{Tool: tool, Where: "the tree or the build root"}
		return nil, fmt.Errorf("%s: %w", stage, missing)
	}
	return hostCommand(ctx, args, stage, tool, append([]string{"--root", args.Tree}, argv...)...)
}

// run runs the command with its output going to the stage's own, see
// module.RunTool.
func run(cmd *exec.Cmd) error {
	return module.RunTool(cmd, os.Stdout)
}
