package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/containerd/console"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// Terminal is where a person, or a script, talks to a shell.
type Terminal struct{ In, Out, Err *os.File }

// Shell is a shell, or a command, in the container of a stage.
type Shell struct {
	Terminal
	// Args are a command, nil for a shell.
	Args []string
	// Welcome is printed to Err before a shell on a terminal starts.
	Welcome string
	// Alone says that the stage itself does not run.
	Alone bool
}

// shellTTY is the shell's terminal inside the container. The shell opens it
// itself: only so it becomes the one that controls the shell's session.
const shellTTY = "/run/osbuild/tty"

// findShell starts the best shell that the build root has.
const findShell = `for s in /usr/bin/bash /bin/bash; do [ -x $s ] && exec $s "$@"; done; exec /bin/sh "$@"`

// shell runs a shell, or a command, in the waiting container until it ends, and
// returns its exit status.
func (p *PreparedStage) shell(ctx context.Context, s *Shell) (status int, err error) {
	process := &libcontainer.Process{
		Args:  s.Args,
		Env:   append([]string{"HOME=/tmp", `PS1=[osbuild] \w \$ `}, p.box.cmd.Env...),
		Cwd:   "/",
		Stdin: s.In, Stdout: s.Out, Stderr: s.Err,
	}
	hangUp := func() error { return nil }
	if s.Args == nil {
		process.Args = []string{"/bin/sh", "-c", findShell, "sh"}
		if user, err := console.ConsoleFromFile(s.In); err == nil {
			fmt.Fprint(s.Err, s.Welcome)
			if hangUp, err = p.terminal(user, &s.Terminal, process); err != nil {
				return 0, err
			}
		}
	}
	defer func() { err = errors.Join(err, hangUp()) }()
	calls, err := startConfined(p.box.container, process, 0)
	if err != nil {
		return 0, fmt.Errorf("start %s in the sandbox: %w", process.Args[0], err)
	}
	defer func() { err = errors.Join(err, calls.Close()) }()
	gone := make(chan error, 1)
	var state *os.ProcessState
	go func() {
		var err error
		state, err = process.Wait()
		gone <- err
	}()
	select {
	case err = <-gone:
	case <-ctx.Done():
		_ = process.Signal(unix.SIGKILL)
		<-gone
		return 0, context.Cause(ctx)
	}
	if state == nil {
		return 0, fmt.Errorf("wait for %s: %w", process.Args[0], err)
	}
	return exitStatus(state), nil
}

// terminal gives the process a terminal of its own, connected with the user's,
// which is in raw mode until hangUp is called.
func (p *PreparedStage) terminal(user console.Console, t *Terminal, process *libcontainer.Process) (hangUp func() error, err error) {
	pty, path, err := console.NewPty()
	if err != nil {
		return nil, fmt.Errorf("make a terminal for the shell: %w", err)
	}
	// As long as this end is open, reading from the other does not fail.
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a terminal for the shell: %w", err), pty.Close())
	}
	err = Bind{Source: path, Target: shellTTY, Writable: true, Devices: true}.Apply(p.dir)
	if err == nil {
		err = user.SetRaw()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the shell's terminal: %w", err), slave.Close(), pty.Close())
	}
	process.Args[2] = "exec <>" + shellTTY + " >&0 2>&0; " + findShell
	process.Args = append(process.Args, "-i")
	process.Stdin, process.Stdout, process.Stderr = nil, nil, nil
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	go func() {
		for range resized {
			_ = pty.ResizeFrom(user)
		}
	}()
	_ = pty.ResizeFrom(user)
	go io.Copy(pty, t.In)
	shown := make(chan error, 1)
	go func() {
		_, err := io.Copy(t.Out, pty)
		if errors.Is(err, unix.EIO) {
			err = nil // what reading a terminal says whose other end is closed (pty(7))
		}
		shown <- err
	}()
	return func() error {
		signal.Stop(resized)
		close(resized)
		return errors.Join(slave.Close(), <-shown, user.Reset(), pty.Close())
	}, nil
}
