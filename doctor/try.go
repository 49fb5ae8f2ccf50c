package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"golang.org/x/sys/unix"
)

// What Try tries.
const (
	// tryWait waits for the end of standard input.
	tryWait = "wait"
	// tryEnter enters the namespace that builds run in.
	tryEnter = "enter"
	// tryContainers starts a process as a container's first one is, in that namespace.
	tryContainers = "containers"
	// tryProc is that process.
	tryProc = "proc"
	// tryOverlay mounts an overlay in the directory that follows, in that namespace, or as tryPlainOverlay
	// where it is.
	tryOverlay      = "overlay"
	tryPlainOverlay = "plain-overlay"
	// tryGroups asks systemd for control groups.
	tryGroups = "groups"
	// tryStore opens the store that follows.
	tryStore = "store"
	// trySeccomp loads a filter.
	trySeccomp = "seccomp"
)

const (
	// entered is what tries print when they are in the namespace.
	entered = "entered"
	// asRoot is what tryEnter prints if stages would have ids of the machine.
	asRoot = "as root"
)

// waitDelay is how long the outputs of a process that was killed are waited for.
const waitDelay = 500 * time.Millisecond

// Try tries one thing in this process, and returns why it cannot be done. It is for processes that Run
// starts.
func Try(what string, args ...string) error {
	switch what {
	case tryWait:
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	case trySeccomp:
		return loadFilter()
	case tryProc:
		return mountProc()
	case tryPlainOverlay:
		fmt.Println(entered)
		return mountOverlay(args[0], false)
	}
	if err := sandbox.EnterNamespace(); err != nil {
		return err
	}
	fmt.Println(entered)
	switch what {
	case tryEnter:
		if sandbox.IsInitialNamespace() {
			fmt.Println(asRoot)
		}
		return nil
	case tryContainers:
		return startContainer()
	case tryGroups:
		return sandbox.TryGroups()
	case tryOverlay:
		return mountOverlay(args[0], true)
	case tryStore:
		s, err := store.Open(args[0], "")
		if damaged := (*store.MetadataError)(nil); errors.As(err, &damaged) {
			return fmt.Errorf("%s%w", metadataMark, err)
		}
		if err != nil {
			return err
		}
		return s.Close()
	}
	return fmt.Errorf("nothing to try is called %q", what)
}

// metadataMark begins the error of a store that can be repaired.
const metadataMark = "damaged: "

// try lets a process of its own try something. The error is what that says; it is a
// *namespaceError if it was not in the namespace yet.
func (o *Options) try(ctx context.Context, what string, args ...string) error {
	_, err := o.start(ctx, nil, what, args...)
	return err
}

// start is try with attributes of the process, and returns what it prints.
func (o *Options) start(ctx context.Context, attr *syscall.SysProcAttr, what string, args ...string) (string, error) {
	argv := slices.Concat(o.Try, []string{what}, args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.WaitDelay = waitDelay
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	attr.Setpgid = true
	cmd.SysProcAttr = attr
	// Its own processes end with it.
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	text := strings.TrimSpace(said.String())
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case text != "":
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			lines[i] = strings.TrimPrefix(strings.TrimSpace(line), "ossify: ")
		}
		err = errors.New(strings.Join(lines, "; "))
	}
	if !strings.HasPrefix(out.String(), entered) {
		err = &namespaceError{err}
	}
	return out.String(), err
}

// ownNamespace lets a process be root of a user namespace with its user's id alone.
func ownNamespace() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
}

func (o *Options) buildNamespace(ctx context.Context) Check {
	out, err := o.start(ctx, nil, tryEnter)
	switch {
	case err != nil && strings.Contains(strings.ToLower(err.Error()), unix.ENOSPC.Error()):
		return bad(err.Error(), moreNamespaces)
	case err != nil:
		return lacking(err)
	case strings.Contains(out, asRoot):
		return Check{
			State: Degraded, Found: "the filesystem of / cannot be id-mapped, so stages have root's own user ids",
			Fix: "su USER -c 'ossify doctor' # build as an ordinary user", Lost: "some of the confinement of stages, in builds by root",
		}
	case needless() != "":
		return ok("can be entered")
	}
	return ok("can be entered, with %d ids or more", sandbox.MinIDs)
}

func (o *Options) containers(ctx context.Context) Check {
	err := o.try(ctx, tryContainers)
	if outside := (*namespaceError)(nil); errors.As(err, &outside) && ctx.Err() == nil {
		return lacking(err)
	}
	switch {
	case err == nil:
		return ok("all kinds of namespaces, and a /proc of their own")
	case ctx.Err() != nil:
		return lacking(ctx.Err())
	case strings.Contains(err.Error(), "/proc"):
		return bad(err.Error(), "podman run --security-opt unmask=ALL ... # or run ossify outside of the container")
	case strings.Contains(err.Error(), unix.ENOSPC.Error()):
		return bad(err.Error(), moreNamespaces)
	}
	return bad(err.Error(), "sudo dmesg | tail # may tell who refuses it")
}

// moreNamespaces is for shells that expand braces; sysctl(8) takes any number of settings.
const moreNamespaces = "sudo sysctl user.max_{user,mnt,pid,net,ipc,uts}_namespaces=15000"

// startContainer starts a process in the namespaces that a stage has.
func startContainer() error {
	cmd := exec.Command("/proc/self/exe", "doctor", "try", tryProc)
	cmd.Env = append(os.Environ(), "GOTRACEBACK=none")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
		// The map of the namespace around, as far as all have it.
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	runtime.LockOSThread() // the death signal goes by the thread
	defer runtime.UnlockOSThread()
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if text := strings.TrimSpace(said.String()); err != nil && text != "" {
		return errors.New(strings.TrimPrefix(text, "ossify: "))
	}
	if err != nil {
		return fmt.Errorf("the namespaces of a container are refused: %w", cause(err))
	}
	return nil
}

// mountProc mounts, in the namespaces of startContainer, what containers have of their own.
func mountProc() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Not on /proc, on which there may be mounts.
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	if err := os.Mkdir("/tmp/proc", 0o700); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/tmp/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("a container cannot mount a /proc of its own, as where parts of /proc are masked: %w", err)
	}
	return nil
}

// mountOverlay does to an overlay in dir what stages do. mapped says that there are more ids
// than 0.
func mountOverlay(dir string, mapped bool) (err error) {
	at := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	for _, d := range []string{"lower", "lower/dir", "upper", "work", "merged"} {
		if err := os.Mkdir(at(d), 0o755); err != nil {
			return err
		}
	}
	for _, f := range []string{"lower/changed", "lower/gone", "lower/dir/file"} {
		if err := os.WriteFile(at(f), []byte("ossify\n"), 0o644); err != nil {
			return err
		}
	}
	if err := unix.Setxattr(at("upper"), "user.overlay.ossify", []byte("y"), 0); err != nil {
		return fmt.Errorf("user.* attributes cannot be set: %w", err)
	}
	stack := overlay.Stack{Lower: []string{at("lower")}, Upper: at("upper"), Work: at("work"), Volatile: true}
	unmount, err := stack.Mount(at("merged"))
	if err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), dir+"/", ""))
	}
	defer func() { err = errors.Join(err, unmount()) }()
	steps := []struct {
		what string
		do   func() error
	}{
		{"change a file", func() error { return os.Truncate(at("merged/changed"), 3) }},
		{"remove a file", func() error { return os.Remove(at("merged/gone")) }},
		{"replace a directory", func() error {
			return errors.Join(os.RemoveAll(at("merged/dir")), os.Mkdir(at("merged/dir"), 0o755))
		}},
		{"make a special file", func() error { return unix.Mkfifo(at("merged/fifo"), 0o600) }},
		{"set an attribute", func() error { return unix.Setxattr(at("merged/changed"), "user.ossify", []byte("y"), 0) }},
		{"give a file to another user", func() error {
			if !mapped {
				return nil
			}
			return os.Lchown(at("merged/changed"), 1, 1)
		}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("cannot %s in it: %w", s.what, cause(err))
		}
	}
	return nil
}

// loadFilter loads a filter that allows everything, with a listener.
func loadFilter() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	// Not on the thread that goes on: nobody answers the listener.
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}
		prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			result <- err
			return
		}
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
		if errno != 0 {
			result <- fmt.Errorf("a filter with user notification cannot be loaded: %w", errno)
			return
		}
		result <- nil
	}()
	return <-result
}
