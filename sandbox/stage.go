package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/record"
	"github.com/ossify/ossify/seccomp"
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
	// Library is a compiled copy of the libdir's Python package, or empty.
	Library string
	// Devices gives it a /dev of its own, for services to make nodes in.
	Devices bool
	// Network gives it the engine's network, and what finds names and knows
	// certificates there.
	Network bool
	// Runner is the runner's file if it wraps every module, else empty.
	Runner string
	// Epoch is the source-epoch in seconds, or nil.
	Epoch *int64
	// Capabilities in addition to the default ones.
	Capabilities []string
}

// StageContent is what a stage works on.
type StageContent struct {
	// Tree is writable. It may be nil.
	Tree *overlay.Stack
	// Arguments makes the JSON document that the module reads, when what it
	// works on is in its places; host services may add to these meanwhile, and it
	// returns what else is to be shown to the stage.
	Arguments func(Places) ([]byte, []Op, error)
	// Inputs is a folder that was filled for this stage, or empty.
	Inputs string
	// Writable lists mounts below Inputs that the stage may change.
	Writable []string
	// Record is the encoded side record of the tree, Records are those of inputs,
	// by name; nil for none.
	Record  []byte
	Records map[string][]byte
	// Disk, if not nil, answers at module.DiskSocket: it gets a message with its
	// descriptors, where the engine sees the container, and what lays out more
	// of that.
	Disk func(msg json.RawMessage, files []*os.File, at string, add func(...Op) error) any
	// Left are paths of further side records that the stage may leave.
	Left []string
	// Instead, if not nil, is called in place of the module.
	Instead func() error
	// Shell, if not nil, runs in the container before the stage does.
	Shell *Shell
}

// Places are directories of a container as the engine sees them.
type Places struct {
	// Tree is that of the stage, Devices what it sees as /dev, Mounts what it
	// sees as /run/osbuild/mounts.
	Tree, Devices, Mounts string
}

// StageResult is how a stage ended.
type StageResult struct {
	// Status is the exit status; 0 is success.
	Status int
	// Error is what the module reported, or nil.
	Error *StageError
	// Refused are the system calls that it made and may not.
	Refused []seccomp.Refused
	// Metadata is what the stage left in /run/osbuild/meta, or nil.
	Metadata json.RawMessage
	// Record is the encoded side record that the stage left, or nil; an empty one
	// takes away what there was. Left has the further ones by path.
	Record []byte
	Left   map[string][]byte
}

// Where a stage finds the side record of its tree and those of its inputs.
const (
	TreeRecord   = "/run/osbuild/records/tree"
	InputRecords = "/run/osbuild/records/inputs"
)

// PreparedStage is the container of a stage that waits for what the stage works
// on: making one takes longer than many a stage does, so it is made while the
// stage before is still at work.
type PreparedStage struct {
	id    string
	debug io.Writer
	// dir is the container's root, dev what it sees as /dev.
	dir, dev        string
	errs            *errorServer
	api, loop, disk *apiServer
	loops           *loopServer
	box             *box
	undo            []func() error
}

// PrepareStage makes the container of a stage. layer is what PrepareRoot made of
// root; scratch is an empty folder on the store's filesystem that the caller
// removes after Close, with a name that no other container has. output gets what
// the stage prints.
func (c *Containers) PrepareStage(scratch string, root *BuildRoot, layer *overlay.Stack, s *Stage, output io.Writer) (_ *PreparedStage, err error) {
	id := filepath.Base(scratch)
	p := &PreparedStage{id: id, debug: c.Debug, errs: &errorServer{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	for _, sub := range []string{"tmp", "containers"} {
		if err := os.Mkdir(filepath.Join(scratch, sub), 0o755); err != nil {
			return nil, fmt.Errorf("prepare build root: %w", err)
		}
	}
	stack, err := p.directories(filepath.Join(c.dir, id), layer)
	if err != nil {
		return nil, err
	}
	if root.Whole {
		if err := root.checkWhole(); err != nil {
			return nil, err
		}
		if err := onDisk(stack, scratch); err != nil {
			return nil, fmt.Errorf("prepare build root: %w", err)
		}
	}
	program := "/run/osbuild/bin/" + s.Name
	args := []string{program}
	ops := root.ops(stack)
	if !root.Whole {
		ops = append(ops,
			// Large temporary files go to disk, and so do images of containers:
			// their storage does not work on the build root's overlay.
			Bind{Source: scratch + "/tmp", Target: "/var/tmp", Writable: true},
			Dir{Target: "/var/tmp", Mode: 0o777 | os.ModeSticky},
			Bind{Source: scratch + "/containers", Target: "/var/lib/containers", Writable: true},
		)
	}
	ops = append(ops,
		Bind{Source: s.Program, Target: program},
		Bind{Source: s.Libdir, Target: "/run/osbuild/lib"},
		Dir{Target: "/run/osbuild/tree", Mode: 0o755},
		Dir{Target: "/run/osbuild/inputs", Mode: 0o755},
		Dir{Target: "/run/osbuild/mounts", Mode: 0o755},
		Dir{Target: filepath.Dir(module.ErrorSocket), Mode: 0o755},
		File{Target: module.MetaPath, Mode: 0o644},
	)
	if s.Library != "" {
		ops = append(ops, Bind{Source: s.Library, Target: libraryDir})
	}
	if s.Runner != "" {
		runner := "/run/osbuild/runner/" + filepath.Base(s.Runner)
		ops = append(ops, Bind{Source: s.Runner, Target: runner})
		args = append([]string{runner}, args...)
	}
	if s.Network {
		ops = append(ops, networkFiles(root)...)
	}
	undo, err := c.layout(id+" for "+s.Name, p.dir, ops)
	if err != nil {
		return nil, err
	}
	p.undo = append(p.undo, undo)
	if p.api, err = serveAPI(filepath.Join(p.dir, module.ErrorSocket), p.errs.handle); err != nil {
		return nil, err
	}
	if c.loops || s.Devices {
		undo, err := makeDev(filepath.Join(c.dir, id))
		if err != nil {
			return nil, err
		}
		p.dev = filepath.Join(c.dir, id, "dev")
		p.undo = append(p.undo, undo)
	}
	p.loops = &loopServer{dev: p.dev, allowed: c.loops}
	if p.loop, err = serveAPI(filepath.Join(p.dir, "/run/osbuild/api/remoteloop"), p.loops.handle); err != nil {
		return nil, err
	}
	env := append(environment(), ClassEnv+"="+s.Class, "PYTHONPATH=/run/osbuild/lib", "PYTHONUNBUFFERED=1")
	if root.Whole {
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	if s.Epoch != nil {
		env = append(env, "SOURCE_DATE_EPOCH="+strconv.FormatInt(*s.Epoch, 10))
	}
	p.box, err = c.start(id, p.dir, &Command{
		Args: args, Env: env, Devices: p.dev, Network: s.Network,
		// osbuild's assemblers mount what is on their loop devices, which
		// no other user namespace may.
		HostUser:     c.loops && s.Class == "Assembler" && s.Library != "",
		Capabilities: append(append([]string{}, DefaultCapabilities...), s.Capabilities...),
		Stdout:       output, Stderr: output,
	})
	if err == nil {
		p.box.disk = []string{scratch}
	}
	return p, err
}

// networkFiles are what a program needs of /etc to use the network: names as this
// machine finds them, certificates as the build root has them.
func networkFiles(root *BuildRoot) []Op {
	var ops []Op
	for _, name := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"} {
		if data, err := os.ReadFile(name); err == nil {
			ops = append(ops, File{Target: name, Content: data, Mode: 0o644})
		}
	}
	for _, name := range []string{"/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/crypto-policies"} {
		if root.hasDir(name) {
			ops = append(ops, Bind{Within: root.Tree, Source: name, Target: name})
		}
	}
	return ops
}

// directories makes the container's mount point in dir and returns the build
// root's layer with a throw-away upper directory.
func (p *PreparedStage) directories(dir string, layer *overlay.Stack) (*overlay.Stack, error) {
	stack := *layer
	stack.Volatile = true
	stack.Upper, stack.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	p.dir = filepath.Join(dir, "root")
	p.undo = append(p.undo, func() error { return overlay.RemoveAll(dir) })
	for _, sub := range []string{dir, stack.Upper, stack.Work, p.dir} {
		if err := os.Mkdir(sub, 0o755); err != nil {
			return nil, fmt.Errorf("prepare build root: %w", err)
		}
	}
	return &stack, nil
}

// onDisk gives the stack a throw-away upper directory in scratch: what people install in a
// whole system may not fit into memory.
func onDisk(stack *overlay.Stack, scratch string) error {
	stack.Upper, stack.Work = filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, dir := range []string{stack.Upper, stack.Work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return overlay.InheritRoot(stack.Lower[0], stack.Upper)
}

// Run runs the stage. The tree is free when the container was closed.
func (p *PreparedStage) Run(ctx context.Context, content *StageContent) (*StageResult, error) {
	// These mounts spread to the container from /run. Their flags are locked
	// in it, as they come from a more privileged namespace; what a stage that
	// takes them away finds below is empty.
	var ops []Op
	if content.Tree != nil {
		ops = append(ops, Overlay{Stack: content.Tree, Target: "/run/osbuild/tree"})
	}
	if content.Inputs != "" {
		ops = append(ops, Bind{Source: content.Inputs, Target: "/run/osbuild/inputs"})
	}
	for _, path := range content.Writable {
		ops = append(ops, Bind{Source: filepath.Join(content.Inputs, path), Target: filepath.Join("/run/osbuild/inputs", path), AsMounted: true})
	}
	if content.Record != nil {
		ops = append(ops, File{Target: TreeRecord, Content: content.Record, Mode: 0o644})
	}
	for name, data := range content.Records {
		ops = append(ops, File{Target: filepath.Join(InputRecords, name), Content: data, Mode: 0o644})
	}
	if err := p.add(ops...); err != nil {
		return nil, err
	}
	arguments, ops, err := content.Arguments(Places{
		Tree: filepath.Join(p.dir, "run/osbuild/tree"), Devices: p.dev, Mounts: filepath.Join(p.dir, "run/osbuild/mounts"),
	})
	if err != nil {
		return nil, err
	}
	if err := p.add(append(ops, File{Target: module.ArgumentsPath, Content: arguments, Mode: 0o644})...); err != nil {
		return nil, err
	}
	if content.Shell != nil {
		status, err := p.shell(ctx, content.Shell)
		if err != nil || content.Shell.Alone {
			return &StageResult{Status: status}, err
		}
		if status != 0 {
			return nil, fmt.Errorf("the shell ended with status %d, which ends the build; leave it with: exit 0", status)
		}
	}
	if content.Disk != nil {
		p.disk, err = serveAPI(filepath.Join(p.dir, module.DiskSocket), func(msg json.RawMessage, files []*os.File) any {
			return content.Disk(msg, files, p.dir, p.add)
		})
		if err != nil {
			return nil, err
		}
		defer p.disk.close()
	}
	if content.Instead != nil {
		return &StageResult{}, content.Instead()
	}
	if content.Tree != nil {
		p.box.disk = append(p.box.disk, content.Tree.Upper)
	}
	status, err := p.box.run(ctx)
	if err != nil {
		return nil, err
	}
	p.api.close() // now all that the module has reported is there
	result := &StageResult{Status: status, Error: p.errs.get(), Refused: p.box.calls.Refused(), Left: map[string][]byte{}}
	if result.Metadata, err = readMetadata(p.dir); err == nil {
		result.Record, err = readRecord(p.dir, module.RecordPath)
	}
	for _, path := range content.Left {
		if err == nil {
			result.Left[path], err = readRecord(p.dir, path)
		}
	}
	if err != nil && status == 0 { // else there is a better reason
		return nil, fmt.Errorf("the stage succeeded, but what it left cannot be used: %w", err)
	}
	return result, nil
}

// add lays out more of the waiting container.
func (p *PreparedStage) add(ops ...Op) error {
	if p.debug != nil {
		fmt.Fprintf(p.debug, "%s:\n%s", p.id, DescribeAll(ops))
	}
	for _, op := range ops {
		if err := op.Apply(p.dir); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the container, if it still runs, and takes it away.
func (p *PreparedStage) Close() error {
	var errs []error
	if p.box != nil {
		errs = append(errs, p.box.close())
	}
	for _, server := range []*apiServer{p.api, p.loop, p.disk} {
		if server != nil {
			server.close()
		}
	}
	if p.loops != nil {
		errs = append(errs, p.loops.close())
	}
	for i := len(p.undo) - 1; i >= 0; i-- {
		errs = append(errs, p.undo[i]())
	}
	return errors.Join(errs...)
}

// readMetadata reads the metadata that a stage left in its container at root.
func readMetadata(root string) (json.RawMessage, error) {
	data, err := readLeft(root, module.MetaPath, maxMetadata)
	if err != nil || len(data) == 0 {
		return nil, err
	}
	if !json.Valid(data) {
		return nil, fmt.Errorf("%s is not JSON", module.MetaPath)
	}
	return data, nil
}

// readRecord reads a side record that a stage left in its container at root.
func readRecord(root, path string) ([]byte, error) {
	data, err := readLeft(root, path, record.MaxSize)
	if err == nil && data != nil {
		_, err = record.Decode(bytes.NewReader(data))
	}
	return data, err
}

// readLeft reads a file of at most limit bytes that a stage left in its container
// at root, nil if it left none. The stage could change all of /run: nothing there
// may lead elsewhere, or keep us waiting.
func readLeft(root, path string, limit int64) ([]byte, error) {
	dir, err := securejoin.SecureJoin(root, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", path, err)
	}
	fd, err := unix.Open(filepath.Join(dir, filepath.Base(path)), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR:
		return nil, nil
	case unix.ELOOP, unix.ENXIO: // a symbolic link, a socket
		return nil, fmt.Errorf("%s is no regular file any more", path)
	default:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file any more", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, nil
}

// environment is what every container starts with (osbuild/buildroot.py). The
// container has osbuild's name: remediations of OpenSCAP look for that.
func environment() []string {
	term := os.Getenv("TERM")
	if term == "" {
		term = "dumb"
	}
	return []string{"container=bwrap-osbuild", "LC_CTYPE=C.UTF-8", "PATH=/usr/sbin:/usr/bin", "TERM=" + term}
}

// Runner sets up a build root.
type Runner struct {
	// Program is the runner's file, Libdir the folder it was found in.
	Program, Libdir string
	// Library is the Python package that it imports, or empty.
	Library string
}

// PrepareRoot fills layer, an empty writable stack, with the parts of a build
// root that its stages share: mount points, and what the runner's set-up makes
// of /etc and /var.
func (c *Containers) PrepareRoot(ctx context.Context, scratch string, root *BuildRoot, layer *overlay.Stack, r *Runner, output io.Writer) (err error) {
	runner := r.Program
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
		Bind{Source: r.Libdir, Target: "/run/osbuild/lib"},
		Dir{Target: "/run/osbuild/api", Mode: 0o755},
	)
	if r.Library != "" {
		ops = append(ops, Bind{Source: r.Library, Target: libraryDir})
	}
	undo, err := c.layout(filepath.Base(scratch)+" for "+filepath.Base(runner), dir, ops)
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
// solver, on a throw-away file tree with the given binds. Its capabilities are the
// default ones if the command has none.
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
	undo, err := c.layout(filepath.Base(scratch)+" for "+cmd.Args[0], dir, ops)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, undo()) }()
	tool := *cmd
	tool.Env = append(environment(), cmd.Env...)
	if tool.Capabilities == nil {
		tool.Capabilities = DefaultCapabilities
	}
	return c.Run(ctx, filepath.Base(scratch), dir, &tool)
}
