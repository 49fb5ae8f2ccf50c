package sandbox

import (
	"bufio"
	"context"
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

	dir string
	// loops says that stages can have loop devices.
	loops    bool
	uid, gid []configs.IDMap
}

// NewContainers prepares for containers. Their state and what they write outside
// their trees live in dir, best a tmpfs, which the caller removes when all have
// ended.
func NewContainers(dir string) (*Containers, error) {
	c := &Containers{dir: dir, loops: loopsAllowed()}
	var err error
	if c.uid, err = nestedMap("/proc/self/uid_map"); err != nil {
		return nil, err
	}
	c.gid, err = nestedMap("/proc/self/gid_map")
	return c, err
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
	return status, errors.Join(err, b.close())
}

// box is a container whose program waits to be let go.
type box struct {
	cmd       *Command
	container *libcontainer.Container
	process   *libcontainer.Process
	// copied returns when all output was handed on.
	copied func() error
	// gone is closed when no process is left; state and waitErr say how the
	// first one ended.
	gone    chan struct{}
	state   *os.ProcessState
	waitErr error
}

// start makes the container of a command, up to the moment before its program
// starts. The caller closes it.
func (c *Containers) start(id, root string, cmd *Command) (*box, error) {
	b := &box{cmd: cmd, gone: make(chan struct{})}
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
	out, copied, err := outputs(b.cmd)
	if err != nil {
		return err
	}
	b.copied = copied
	process := &libcontainer.Process{
		Args: b.cmd.Args, Env: b.cmd.Env, Cwd: "/", Init: true,
		Stdin: b.cmd.Stdin, Stdout: out[0], Stderr: out[1],
	}
	if err := container.Start(process); err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	closeAll(out)
	b.process = process
	return nil
}

// run lets the program go and returns its exit status.
func (b *box) run(ctx context.Context) (status int, err error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
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
		_ = b.container.Signal(unix.SIGKILL)
		<-b.gone
	case <-b.gone:
	}
	// Every process of the container is gone with its first one, so the
	// output ends as well.
	copyErr := b.copied()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if b.state == nil {
		return 0, fmt.Errorf("wait for container: %w", b.waitErr)
	}
	if copyErr != nil {
		return 0, fmt.Errorf("read output: %w", copyErr)
	}
	return exitStatus(b.state), nil
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

// close ends the container's processes, if there are any left, and removes it.
func (b *box) close() error {
	if b.process != nil {
		select {
		case <-b.gone:
		default:
			_ = b.container.Signal(unix.SIGKILL)
		}
	}
	<-b.gone
	if b.copied != nil {
		b.copied()
	}
	if b.container == nil {
		return nil
	}
	if err := b.container.Destroy(); err != nil {
		return fmt.Errorf("remove container: %w", err)
	}
	return nil
}

// outputs makes pipes for standard output and error. wait closes our copies of
// the writing ends and returns when everything was copied.
func outputs(cmd *Command) (out [2]*os.File, wait func() error, err error) {
	var errs []chan error
	pipe := func(dst io.Writer) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		done := make(chan error, 1)
		errs = append(errs, done)
		go func() {
			_, err := io.Copy(dst, r)
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
	umask := uint32(0o022)
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
