package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/overlay"
	"golang.org/x/sys/unix"
)

// ClassEnv tells a native module what it is started as, for names that several
// families have (the stage and the assembler org.osbuild.qemu).
const ClassEnv = "OSSIFY_MODULE_CLASS"

// maxMetadata bounds what a stage may leave as its metadata, in bytes.
const maxMetadata = 16 << 20

// Stage is a stage or assembler about to run.
type Stage struct {
	// Name and Class as in the manifest and the libdir.
	Name, Class string
	// Program is the module's file, Libdir the folder it was found in.
	Program, Libdir string
	// Runner is the runner's file if it wraps every module, else empty.
	Runner string
	// Arguments is the JSON document that the module reads.
	Arguments []byte
	// Inputs and Mounts are folders that were filled for this stage.
	Inputs, Mounts string
	// Epoch is the source-epoch in seconds, or nil.
	Epoch *int64
	// Capabilities in addition to the default ones.
	Capabilities []string
	// Timeout ends the stage; 0 is no limit.
	Timeout time.Duration
}

// StageResult is how a stage ended.
type StageResult struct {
	// Status is the exit status; 0 is success.
	Status int
	// Error is what the module reported, or nil.
	Error *StageError
	// Metadata is what the stage left in /run/osbuild/meta, or nil.
	Metadata json.RawMessage
}

// rootStack is a build root's layer with a throw-away upper directory below
// scratch.
func rootStack(layer *overlay.Stack, scratch string) (*overlay.Stack, error) {
	stack := *layer
	stack.Volatile = true
	stack.Upper, stack.Work = filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, dir := range []string{stack.Upper, stack.Work, filepath.Join(scratch, "root")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, fmt.Errorf("prepare build root: %w", err)
		}
	}
	return &stack, nil
}

// RunStage runs a stage on the tree. layer is what PrepareRoot made of root;
// scratch is an empty folder on the store's filesystem that the caller removes.
func (c *Containers) RunStage(ctx context.Context, scratch string, root *BuildRoot, layer, tree *overlay.Stack, s *Stage, output io.Writer) (result *StageResult, err error) {
	stack, err := rootStack(layer, scratch)
	if err != nil {
		return nil, err
	}
	program := "/run/osbuild/bin/" + s.Name
	args := []string{program}
	ops := append(root.ops(stack),
		Overlay{Stack: tree, Target: "/run/osbuild/tree"},
		Bind{Source: s.Program, Target: program},
		Bind{Source: s.Libdir, Target: "/run/osbuild/lib"},
		Dir{Target: "/run/osbuild/inputs", Mode: 0o755},
		Dir{Target: "/run/osbuild/mounts", Mode: 0o755},
		File{Target: module.ArgumentsPath, Content: s.Arguments, Mode: 0o644},
		File{Target: module.MetaPath, Mode: 0o644},
	)
	if s.Runner != "" {
		runner := "/run/osbuild/runner/" + filepath.Base(s.Runner)
		ops = append(ops, Bind{Source: s.Runner, Target: runner})
		args = append([]string{runner}, args...)
	}
	if s.Inputs != "" {
		ops = append(ops, Bind{Source: s.Inputs, Target: "/run/osbuild/inputs"})
	}
	if s.Mounts != "" {
		ops = append(ops, Bind{Source: s.Mounts, Target: "/run/osbuild/mounts", Writable: true})
	}
	dir := filepath.Join(scratch, "root")
	undo, err := Layout(dir, ops)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, undo()) }()

	errs := &errorServer{}
	api, err := serveAPI(filepath.Join(dir, module.ErrorSocket), errs.handle)
	if err != nil {
		return nil, err
	}
	closeAPI := sync.OnceFunc(api.close)
	defer closeAPI()
	loop, err := serveAPI(filepath.Join(dir, "/run/osbuild/api/remoteloop"), refuseLoop)
	if err != nil {
		return nil, err
	}
	defer loop.close()

	env := append(environment(), ClassEnv+"="+s.Class, "PYTHONPATH=/run/osbuild/lib", "PYTHONUNBUFFERED=1")
	if s.Epoch != nil {
		env = append(env, "SOURCE_DATE_EPOCH="+strconv.FormatInt(*s.Epoch, 10))
	}
	status, err := c.Run(ctx, filepath.Base(scratch), dir, &Command{
		Args: args, Env: env, Timeout: s.Timeout,
		Capabilities: append(append([]string{}, DefaultCapabilities...), s.Capabilities...),
		Stdout:       output, Stderr: output,
	})
	if err != nil {
		return nil, err
	}
	closeAPI() // now all that the module has reported is there
	meta, err := readMetadata(filepath.Join(dir, module.MetaPath))
	if err != nil {
		return nil, err
	}
	return &StageResult{Status: status, Error: errs.get(), Metadata: meta}, nil
}

func readMetadata(path string) (json.RawMessage, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the stage's metadata: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMetadata+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the stage's metadata: %w", err)
	case len(data) == 0:
		return nil, nil
	case len(data) > maxMetadata:
		return nil, fmt.Errorf("the stage's metadata is larger than %d bytes", maxMetadata)
	case !json.Valid(data):
		return nil, errors.New("the stage's metadata is not JSON")
	}
	return data, nil
}

// environment is what every container starts with (osbuild/buildroot.py).
func environment() []string {
	term := os.Getenv("TERM")
	if term == "" {
		term = "dumb"
	}
	return []string{"container=ossify", "LC_CTYPE=C.UTF-8", "PATH=/usr/sbin:/usr/bin", "TERM=" + term}
}

// PrepareRoot fills layer, an empty writable stack, with the parts of a build
// root that its stages share: mount points, and what the runner's set-up makes
// of /etc and /var.
func (c *Containers) PrepareRoot(ctx context.Context, scratch string, root *BuildRoot, layer *overlay.Stack, runner, libdir string, output io.Writer) (err error) {
	dir := filepath.Join(scratch, "root")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("prepare build root: %w", err)
	}
	inside := "/run/osbuild/runner/" + filepath.Base(runner)
	ops := []Op{Overlay{Stack: layer, Target: "/"}}
	ops = append(ops, root.skeleton()...)
	ops = append(ops, root.ops(layer)[1:]...)
	ops = append(ops,
		Bind{Source: runner, Target: inside},
		Bind{Source: libdir, Target: "/run/osbuild/lib"},
		Dir{Target: "/run/osbuild/api", Mode: 0o755},
	)
	undo, err := Layout(dir, ops)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	errs := &errorServer{}
	api, err := serveAPI(filepath.Join(dir, module.ErrorSocket), errs.handle)
	if err != nil {
		return err
	}
	closeAPI := sync.OnceFunc(api.close)
	defer closeAPI()
	status, err := c.Run(ctx, filepath.Base(scratch), dir, &Command{
		Args:         []string{inside, "/usr/bin/true"},
		Env:          append(environment(), ClassEnv+"=Runner", "PYTHONPATH=/run/osbuild/lib", "PYTHONUNBUFFERED=1"),
		Capabilities: DefaultCapabilities, Stdout: output, Stderr: output,
	})
	if err != nil {
		return err
	}
	closeAPI()
	if e := errs.get(); e != nil {
		return fmt.Errorf("runner %s: %s", filepath.Base(runner), e.Value)
	}
	if status != 0 {
		return fmt.Errorf("runner %s ended with status %d", filepath.Base(runner), status)
	}
	return nil
}

// RunTool runs a program of a build root that is no module, such as a package
// solver, on a throw-away file tree with the given binds.
func (c *Containers) RunTool(ctx context.Context, scratch string, root *BuildRoot, binds []Bind, cmd *Command) (status int, err error) {
	dir := filepath.Join(scratch, "root")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, fmt.Errorf("prepare build root: %w", err)
	}
	ops := []Op{Tmpfs{Target: "/", Mode: 0o755}}
	ops = append(ops, root.skeleton()...)
	ops = append(ops, root.ops(nil)[1:]...)
	for _, b := range binds {
		ops = append(ops, b)
	}
	undo, err := Layout(dir, ops)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, undo()) }()
	tool := *cmd
	tool.Env = append(environment(), cmd.Env...)
	tool.Capabilities = DefaultCapabilities
	return c.Run(ctx, filepath.Base(scratch), dir, &tool)
}
