package stages

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/ossify/ossify/module"
)

// toolEnv is the whole environment of the programs that stages run, so that
// nothing of the caller's reaches a result.
func toolEnv(args *module.Args) []string {
	env := []string{"PATH=" + module.ToolPath, "LC_ALL=C", "HOME=/"}
	if args.Meta.SourceEpoch != nil {
		env = append(env, "SOURCE_DATE_EPOCH="+strconv.FormatInt(*args.Meta.SourceEpoch, 10))
	}
	return env
}

// hostCommand makes a command of a program of the build root.
func hostCommand(ctx context.Context, args *module.Args, stage, tool string, argv ...string) (*exec.Cmd, error) {
	path, err := module.LookTool(tool)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stage, err)
	}
	cmd := exec.CommandContext(ctx, path, argv...)
	cmd.Env = toolEnv(args)
	return cmd, nil
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
	cmd.Env = toolEnv(args)
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

// run runs the command with its output going to the stage's own. The error
// repeats the end of what the program said on standard error, and wraps the
// *exec.ExitError.
func run(cmd *exec.Cmd) error {
	return runTo(cmd, os.Stdout)
}

// runTo is run with the program's standard output going to out.
func runTo(cmd *exec.Cmd, out io.Writer) error {
	var said tail
	cmd.Stdout = out
	cmd.Stderr = &said
	err := cmd.Run()
	if err == nil {
		return nil
	}
	name := cmd.Path[strings.LastIndexByte(cmd.Path, '/')+1:]
	if text := said.lines(); text != "" {
		return fmt.Errorf("run %s: %w: %s", name, err, text)
	}
	return fmt.Errorf("run %s: %w", name, err)
}

// tail passes everything on to standard error and keeps the last bytes.
type tail struct{ kept []byte }

// tailSize is the number of bytes of a program's words that an error repeats.
const tailSize = 2048

// Write never keeps more than tailSize bytes.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if extra := len(t.kept) - tailSize; extra > 0 {
		t.kept = append([]byte(nil), t.kept[extra:]...)
	}
	return os.Stderr.Write(p)
}

// lines returns the last three lines that are not empty, joined by "; ".
func (t *tail) lines() string {
	var all []string
	for _, line := range bytes.Split(t.kept, []byte("\n")) {
		if text := strings.TrimSpace(string(line)); text != "" {
			all = append(all, text)
		}
	}
	if len(all) > 3 {
		all = all[len(all)-3:]
	}
	return strings.Join(all, "; ")
}
