package module

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// ToolEnv is the whole environment of the programs that modules run, so that
// nothing of the caller's reaches a result.
func ToolEnv(args *Args) []string {
	env := []string{"PATH=" + ToolPath, "LC_ALL=C", "HOME=/"}
	if args.Meta.SourceEpoch != nil {
		env = append(env, "SOURCE_DATE_EPOCH="+strconv.FormatInt(*args.Meta.SourceEpoch, 10))
	}
	return env
}

// HostCommand makes a command of a program of the build root. The error of a
// program that is missing names the module.
func HostCommand(ctx context.Context, args *Args, module, tool string, argv ...string) (*exec.Cmd, error) {
	path, err := LookTool(tool)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", module, err)
	}
	cmd := exec.CommandContext(ctx, path, argv...)
	cmd.Env = ToolEnv(args)
	return cmd, nil
}

// RunTool runs the command with its output going to out. The error repeats the
// end of what the program said on standard error, and wraps the *exec.ExitError.
func RunTool(cmd *exec.Cmd, out io.Writer) error {
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
