package sandbox

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the container before Go starts
	"github.com/ossify/ossify/seccomp"
	"golang.org/x/sys/unix"
)

// The first thread is main's alone. libcontainer enters containers in threads that
// it throws away; the first one cannot be thrown away, it would stay there, keep
// the container's mounts, and be what /proc/self shows.
func init() { runtime.LockOSThread() }

// IsContainerInit says whether this process is libcontainer's first in a new
// container; package native then calls ContainerInit before anything else.
func IsContainerInit() bool {
	return len(os.Args) > 1 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != ""
}

// ContainerInit sets up the container and starts its program; it does not return.
func ContainerInit() {
	// libcontainer gives its death signal to the first of the processes that
	// lead here, and a fork drops it: without this one a stage would outlive
	// a killed engine. Being the first of its namespace, it takes all along.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "set death signal: %v\n", err)
		os.Exit(1)
	}
	// libcontainer starts this process in the root of the container's files;
	// a shell that joins a container ("setns") finds all in place.
	if os.Getenv("_LIBCONTAINER_INITTYPE") == "standard" {
		if err := mountInside("."); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if err := confine(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	libcontainer.Init()
}

// Command is a program to be run in a container.
type Command struct {
	// Args are the program, as an absolute path inside the container, and
	// its arguments.
	Args []string
	// Env is the whole environment, KEY=VALUE.
	Env []string
	// Capabilities are kept inside the container's user namespace.
	Capabilities []string
	// Network keeps the engine's network; otherwise there is none.
	Network bool
	// Stdin may be nil.
	Stdin io.Reader
	// Stdout and Stderr get the output while it is written. They may be the
	// same value.
	Stdout, Stderr io.Writer
	// HostUser leaves it in the engine's user namespace. Its capabilities
	// then hold there, and nothing is locked for it.
	HostUser bool
	// Devices is the directory that it sees as /dev, empty for one that the
	// container makes.
	Devices string
}

// Containers makes containers. It holds what all of them share; several can
// run at the same time.
type Containers struct {
	// Debug, if not nil, is told how each container is laid out. Set it
	// before the first one is made.
	Debug io.Writer
	// Limits are those of each container. Set them before the first one is made.
	Limits Limits

	dir string
	// groups is the directory for control groups of containers, "" where there are none.
	groups func() string
	// loops says that stages can have loop devices.
	loops    bool
	uid, gid []configs.IDMap
}

// NewContainers prepares for containers. Their state and what they write outside
// their trees live in dir, best a tmpfs, which the caller removes when all have
// ended.
func NewContainers(dir string) (*Containers, error) {
	c := &Containers{dir: dir, loops: loopsAllowed(), groups: func() string { return "" }}
	var err error
	if c.uid, err = nestedMap("/proc/self/uid_map"); err != nil {
		return nil, err
	}
	c.gid, err = nestedMap("/proc/self/gid_map")
	return c, err
}

// Delegate asks systemd for control groups for the limits; the first container waits for the answer.
func (c *Containers) Delegate() {
	c.groups = sync.OnceValue(func() string {
		dir, err := delegate()
		if err != nil && c.Debug != nil {
			fmt.Fprintf(c.Debug, "limits without control groups: %v\n", err)
		}
		if err != nil {
			return ""
		}
		return dir
	})
	go c.groups()
}

// layout is Layout, told to Debug.
func (c *Containers) layout(id, dir string, ops []Op) (undo func() error, err error) {
	if c.Debug != nil {
		fmt.Fprintf(c.Debug, "%s:\n%s", id, DescribeAll(ops))
	}
	return Layout(dir, ops)
}

func (c *Containers) state() string { return filepath.Join(c.dir, "state") }

// nestedMap maps every id of this user namespace to itself in a nested one. The
// kernel wants each range within one range of the parent (user_namespaces(7)).
func nestedMap(path string) ([]configs.IDMap, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read id map: %w", err)
	}
	defer f.Close()
	var maps []configs.IDMap
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		var inside, outside, count uint32
		if _, err := fmt.Sscan(scan.Text(), &inside, &outside, &count); err != nil {
			return nil, fmt.Errorf("read id map %s: %w", path, err)
		}
		if count == 0 || inside+count-1 < inside {
			return nil, fmt.Errorf("read id map %s: %q is no range of ids", path, scan.Text())
		}
		maps = append(maps, configs.IDMap{ContainerID: int64(inside), HostID: int64(inside), Size: int64(count)})
	}
	return maps, scan.Err()
}

// Run runs the command with root, laid out by Layout, as its file tree, and
// returns its exit status: that of the program, or 128 and the number of the
// signal that ended it. The container and all its processes are gone when Run
// returns. err is for what kept the command from running to its own end.
func (c *Containers) Run(ctx context.Context, id, root string, cmd *Command) (status int, err error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	b, err := c.start(id, root, cmd)
	if err != nil {
		return 0, err
	}
	status, err = b.run(ctx)
	if refused := b.calls.Refused(); status != 0 && len(refused) > 0 {
		fmt.Fprintf(cmd.Stderr, "\nossify: what runs in a build root may not call %s\n", seccomp.List(refused))
	}
	return status, errors.Join(err, b.close())
}

// box is a container whose program waits to be let go.
type box struct {
	cmd       *Command
	limits    Limits
	container *libcontainer.Container
	process   *libcontainer.Process
	calls     *seccomp.Watcher
	// copied returns when all output was handed on.
	copied func() error
	// gone is closed when no process is left; state and waitErr say how the
	// first one ended.
	gone    chan struct{}
	state   *os.ProcessState
	waitErr error
	// over ends the container at one of its limits, which limit then says.
	limit context.Context
	over  context.CancelCauseFunc
	// groups is a directory for the container's control group, or "".
	groups string
	// shared and disk are directories that the container writes to, in memory and on the disk.
	shared string
	disk   []string
}

// start makes the container of a command, up to the moment before its program
// starts. The caller closes it.
func (c *Containers) start(id, root string, cmd *Command) (*box, error) {
	b := &box{cmd: cmd, limits: c.Limits, groups: c.groups(), shared: c.dir, gone: make(chan struct{})}
	b.limit, b.over = context.WithCancelCause(context.Background())
	started := make(chan error, 1)
	go func() {
		// The death signal goes by the thread that started the process
		// (PR_SET_PDEATHSIG(2const)), and libcontainer ends threads: this
		// one stays with the container.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := b.create(c.state(), id, c.config(root, cmd))
		started <- err
		if err == nil {
			b.state, b.waitErr = b.process.Wait()
		}
		close(b.gone)
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *box) create(state, id string, config *configs.Config) error {
	container, err := libcontainer.Create(state, id, config)
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	b.container = container
	out, copied, err := b.outputs()
	if err != nil {
		return err
	}
	b.copied = copied
	process := &libcontainer.Process{
		Args: b.cmd.Args, Env: b.cmd.Env, Cwd: "/", Init: true,
		Stdin: b.cmd.Stdin, Stdout: out[0], Stderr: out[1],
	}
	var processes uint64
	if !b.cmd.HostUser {
		processes = b.limits.kernelProcesses()
	}
	b.calls, err = startConfined(container, process, processes)
	if err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	closeAll(out)
	b.process = process
	return nil
}

// startConfined starts a process in the container, which goes through confine. The caller closes
// the watcher when the process has ended. processes is how many the kernel lets the container have,
// 0 for as many as the engine.
func startConfined(container *libcontainer.Container, process *libcontainer.Process, processes uint64) (*seccomp.Watcher, error) {
	ours, theirs, err := listenerPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer theirs.Close()
	if processes > 0 {
		if _, err := ours.Write(binary.NativeEndian.AppendUint64(nil, processes)); err != nil {
			return nil, fmt.Errorf("limit processes: %w", err)
		}
	}
	process.ExtraFiles = []*os.File{theirs}
	if err := container.Start(process); err != nil {
		return nil, err
	}
	calls, err := watch(ours)
	if err != nil {
		_ = process.Signal(unix.SIGKILL)
		_, _ = process.Wait()
	}
	return calls, err
}

// run lets the program go and returns its exit status.
func (b *box) run(ctx context.Context) (status int, err error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	stop, err := b.measure()
	if err != nil {
		return 0, err
	}
	defer func() {
		if endErr := stop(); err == nil && endErr != nil {
			status, err = 0, endErr
		}
	}()
	if err := b.container.Exec(); err != nil {
		select {
		case <-b.gone: // somebody has ended it while it waited
			return 0, fmt.Errorf("start container: %w (%s)", err, b.state)
		default:
			return 0, fmt.Errorf("start container: %w", err)
		}
	}
	select {
	case <-ctx.Done():
		b.kill()
		<-b.gone
	case <-b.limit.Done():
		b.kill()
		<-b.gone
	case <-b.gone:
	}
	// Every process of the container is gone with its first one, so the
	// output ends as well.
	copyErr := b.copied()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if b.limit.Err() != nil {
		return 0, context.Cause(b.limit)
	}
	if b.state == nil {
		return 0, fmt.Errorf("wait for container: %w", b.waitErr)
	}
	if copyErr != nil {
		return 0, fmt.Errorf("read output: %w", copyErr)
	}
	return exitStatus(b.state), nil
}

// measure watches what the container uses from now on, until stop is called, which says whether it was
// too much.
func (b *box) measure() (stop func() error, err error) {
	if b.limits == (Limits{Output: b.limits.Output}) {
		return func() error { return nil }, nil
	}
	pid, err := b.process.Pid()
	if err != nil {
		return nil, fmt.Errorf("start container: %w", err)
	}
	g, err := newGauge(b.limits, pid, b.shared, b.disk)
	if err != nil {
		select {
		case <-b.gone: // run tells how
			return func() error { return nil }, nil
		default:
			return nil, err
		}
	}
	if b.groups != "" {
		// It can fail for what was made before systemd had answered.
		g.group, _ = newGroup(b.groups, b.container.ID(), b.limits, pid)
	}
	ctx, cancel := context.WithCancel(b.limit)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.watch(ctx); err != nil {
			b.over(err)
		}
	}()
	return sync.OnceValue(func() error {
		cancel()
		<-done
		return g.close()
	}), nil
}

// exitStatus is the status of a program that has ended, or 128 and the number of
// the signal that ended it.
func exitStatus(state *os.ProcessState) int {
	ws, _ := state.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// kill ends the container's first process, and so all of them. The container itself would open files to
// do that, which may be too many.
func (b *box) kill() { _ = b.process.Signal(unix.SIGKILL) }

// close ends the container's processes, if there are any left, and removes it.
func (b *box) close() error {
	if b.process != nil {
		select {
		case <-b.gone:
		default:
			b.kill()
		}
	}
	<-b.gone
	if b.copied != nil {
		b.copied()
	}
	var errs []error
	if b.calls != nil {
		errs = append(errs, b.calls.Close())
		b.calls = nil
	}
	if b.container != nil {
		if err := b.container.Destroy(); err != nil {
			errs = append(errs, fmt.Errorf("remove container: %w", err))
		}
	}
	return errors.Join(errs...)
}

// printed counts what a container prints, and ends it when that is too much.
type printed struct {
	io.Writer
	b *box
	n int64
}

// Write writes what is within the limit.
func (p *printed) Write(data []byte) (int, error) {
	if p.n += int64(len(data)); p.b.limits.Output > 0 && p.n > p.b.limits.Output {
		p.b.over(fmt.Errorf("it has printed more than %s", size(p.b.limits.Output)))
		return len(data), nil
	}
	return p.Writer.Write(data)
}

// outputs makes pipes for standard output and error. wait closes our copies of
// the writing ends and returns when everything was copied.
func (b *box) outputs() (out [2]*os.File, wait func() error, err error) {
	cmd := b.cmd
	var errs []chan error
	pipe := func(dst io.Writer) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		done := make(chan error, 1)
		errs = append(errs, done)
		go func() {
			_, err := io.Copy(&printed{Writer: dst, b: b}, r)
			r.Close()
			done <- err
		}()
		return w, nil
	}
	wait = sync.OnceValue(func() error {
		closeAll(out)
		var first error
		for _, done := range errs {
			if err := <-done; first == nil {
				first = err
			}
		}
		return first
	})
	if out[0], err = pipe(cmd.Stdout); err != nil {
		return out, nil, fmt.Errorf("make pipe: %w", err)
	}
	if cmd.Stderr == cmd.Stdout {
		out[1] = out[0]
	} else if out[1], err = pipe(cmd.Stderr); err != nil {
		wait()
		return out, nil, fmt.Errorf("make pipe: %w", err)
	}
	return out, wait, nil
}

func closeAll(files [2]*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close() // a second close of the same file is harmless
		}
	}
}

// held are those of the capabilities that this process has; root of a container
// has not all.
func held(names []string) []string {
	mine, err := capability.NewPid2(0)
	if err == nil {
		err = mine.Load()
	}
	if err != nil {
		return names // what is wrong the start of the container tells
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		for _, c := range capability.ListKnown() {
			if "CAP_"+strings.ToUpper(c.String()) == name {
				return !mine.Get(capability.PERMITTED, c)
			}
		}
		return true
	})
}

func (c *Containers) config(root string, cmd *Command) *configs.Config {
	namespaces := configs.Namespaces{
		{Type: configs.NEWUSER}, {Type: configs.NEWNS}, {Type: configs.NEWPID},
		{Type: configs.NEWIPC}, {Type: configs.NEWUTS},
	}
	dev := cmd.Devices
	if dev == "" {
		dev = filepath.Join(root, "dev") // what mountInside made
	}
	mounts := []*configs.Mount{
		// A bind mount tells libcontainer to leave /dev as it is.
		{Source: dev, Destination: "/dev", Device: "bind", Flags: unix.MS_BIND | unix.MS_REC},
		{Source: "shm", Destination: "/dev/shm", Device: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, Data: "mode=1777"},
	}
	var networks []*configs.Network
	var readonly []string
	if !cmd.Network {
		namespaces = append(namespaces, configs.Namespace{Type: configs.NEWNET})
		networks = append(networks, &configs.Network{Type: "loopback"})
		// Whose network it is may mount a /sys. It must not be read-only
		// itself, or the kernel refuses the stage another one in its tree.
		mounts = append(mounts, &configs.Mount{Source: "sysfs", Destination: "/sys", Device: "sysfs", Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC})
		readonly = append(readonly, "/sys")
	}
	umask, killFirst := uint32(0o022), oomScore()
	uid, gid, caps := c.uid, c.gid, cmd.Capabilities
	if cmd.HostUser {
		caps = held(caps)
		namespaces = slices.DeleteFunc(namespaces, func(n configs.Namespace) bool { return n.Type == configs.NEWUSER })
		uid, gid = nil, nil
	}
	return &configs.Config{
		Rootfs:            root,
		Umask:             &umask,
		RootPropagation:   unix.MS_PRIVATE,
		ParentDeathSignal: int(unix.SIGKILL),
		Hostname:          "ossify",
		Namespaces:        namespaces,
		UIDMappings:       uid,
		GIDMappings:       gid,
		NoNewPrivileges:   true,
		NoNewKeyring:      true, // confine makes one
		OomScoreAdj:       &killFirst,
		RootlessCgroups:   true,
		Cgroups:           &cgroups.Cgroup{Name: "ossify", Rootless: true, Resources: &cgroups.Resources{}},
		Capabilities: &configs.Capabilities{
			Bounding: caps, Effective: caps, Permitted: caps, Inheritable: nil,
		},
		Networks:      networks,
		Mounts:        mounts,
		ReadonlyPaths: readonly,
	}
}
