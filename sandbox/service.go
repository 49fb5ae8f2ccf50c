package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ossify/ossify/ansi"
	"github.com/ossify/ossify/jsoncomm"
	"github.com/ossify/ossify/module"
)

// Service is a running host service: a source, input, device or mount.
//
//	engine                                service, first of a pid namespace of its own
//	  | socketpair, clone, exec ----------> | --service-id ID --service-fd 3
//	  | method ---------------------------> |
//	  | <----- signals, reply or exception  | as often as the engine calls
//	  | shutdown -------------------------> | end of file: it lets go of all and exits
//	  | SIGKILL, if that takes long ------> | and all its descendants with it
//
// Its messages are foreign: nothing that a service does may hurt the engine or
// keep it waiting once the context is done.
type Service struct {
	// Grace is how long Close waits for the service to end by itself.
	Grace time.Duration

	ctx    context.Context
	name   string
	path   string
	conn   *jsoncomm.Conn
	cmd    *exec.Cmd
	output *tail
	// stop keeps the context from ending the service; if it is late, aborted
	// is closed when that is done.
	stop    func() bool
	aborted chan struct{}
	// ended is closed when all processes of the service are gone.
	ended chan struct{}
	// failed says that the caller has an error of this service already.
	failed bool
	// undo takes away what a confined service had been shown.
	undo func() error
}

const (
	// closeGrace is Grace unless it is changed. osbuild waits for ever.
	closeGrace = 10 * time.Second
	// endGrace is how long a service may live on that has closed its
	// connection, or hold its output open in a foreign process.
	endGrace = time.Second
)

// StartService starts the executable at path as a host service named id, with
// dir as its working directory. libdir is where its Python modules are found.
// The end of ctx ends it at once. The caller closes it.
func StartService(ctx context.Context, path, libdir, dir, id string) (*Service, error) {
	s, theirs, err := newService(ctx, path)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	s.cmd = exec.Command(path, serviceArgs(path, id)[1:]...)
	s.cmd.Dir = dir
	s.cmd.ExtraFiles = []*os.File{theirs}
	s.cmd.Env = append(os.Environ(), "PYTHONPATH="+libdir, "PYTHONUNBUFFERED=1")
	// All that it starts ends with it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := s.start(); err != nil {
		s.conn.Close()
		return nil, fmt.Errorf("start %s: %w", s.name, startError(path, err))
	}
	return s, nil
}

// newService makes a service that is not started, and its end of the connection.
func newService(ctx context.Context, path string) (*Service, *os.File, error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	name := filepath.Base(path)
	conn, theirs, err := jsoncomm.Pair()
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &Service{
		Grace: closeGrace, ctx: ctx, name: name, path: path, conn: conn, output: &tail{max: 16 << 10},
		aborted: make(chan struct{}), ended: make(chan struct{}),
	}, theirs, nil
}

// serviceArgs are the arguments of a service.
func serviceArgs(path, id string) []string {
	return []string{path, "--service-id", id, "--service-fd", strconv.Itoa(serviceFD)}
}

// start starts the service's command.
func (s *Service) start() error {
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.cmd.WaitDelay = endGrace
	s.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// Ctrl-C is for the engine; and there is no terminal to ask at.
	s.cmd.SysProcAttr.Setsid = true
	started := make(chan error, 1)
	go func() {
		// The death signal goes by the thread that started the process,
		// so that thread must not end before it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait() // ProcessState tells more
		}
		close(s.ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	s.stop = context.AfterFunc(s.ctx, func() {
		defer close(s.aborted)
		_ = s.cmd.Process.Kill()
		s.conn.Shutdown() // a foreign process may hold the other end
	})
	return nil
}

// startError says what to do about a program that cannot be started.
func startError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; make it executable with: chmod a+x %s", err, path)
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%w; a script begins with #! and its interpreter", err)
	case errors.Is(err, fs.ErrNotExist):
		if _, statErr := os.Stat(path); statErr == nil {
			return fmt.Errorf("%w; the file is there, so the interpreter in its first line, or its dynamic loader, is not", err)
		}
	}
	return err
}

// Close ends the service and waits for it; it is called once. An error tells
// what no call has told before.
func (s *Service) Close() (err error) {
	if s.undo != nil {
		defer func() { err = errors.Join(err, s.undo()) }()
	}
	s.conn.Shutdown()
	grace := s.Grace
	if s.failed {
		grace = endGrace
	}
	late := false
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-s.ended:
	case <-timer.C:
		late = true
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	aborted := !s.stop()
	if aborted {
		<-s.aborted
	}
	s.conn.Close()
	switch {
	case s.failed:
		return nil
	case aborted:
		return fmt.Errorf("%s: %w", s.name, context.Cause(s.ctx))
	case late:
		return s.fault("did not end within %s after its connection was closed and was killed", grace)
	case !s.cmd.ProcessState.Success():
		return s.died("did its work but ended badly")
	}
	return nil
}

// Call calls a method and decodes its reply into reply, unless that is nil.
// onSignal, which may be nil, gets what the service tells meanwhile. When the
// context is done the error is its cause.
func (s *Service) Call(method string, args, reply any, onSignal func(json.RawMessage)) error {
	err := s.call(method, args, reply, onSignal)
	if err != nil {
		s.failed = true
		if s.ctx.Err() != nil {
			return fmt.Errorf("%s: %w", s.name, context.Cause(s.ctx))
		}
	}
	return err
}

func (s *Service) call(method string, args, reply any, onSignal func(json.RawMessage)) error {
	data, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("call %s: %w", s.name, err)
	}
	call := map[string]any{"type": "method", "data": module.Call{Name: method, Args: data}}
	if err := s.conn.Send(call); errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return s.gone()
	} else if err != nil {
		return fmt.Errorf("call %s: %w", s.name, err)
	}
	for {
		var msg module.Message
		files, err := s.conn.Recv(&msg)
		if errors.Is(err, io.EOF) {
			return s.gone()
		}
		if err != nil {
			return s.misbehaved(err)
		}
		jsoncomm.CloseAll(files) // none was asked for
		answer, err := parse(&msg)
		var raised *raised
		switch {
		case errors.As(err, &raised):
			return fmt.Errorf("%s: %w", s.name, raised)
		case err != nil:
			return s.misbehaved(err)
		case msg.Type == "signal":
			if onSignal != nil {
				onSignal(answer)
			}
			continue
		case reply == nil:
			return nil
		}
		if err := json.Unmarshal(answer, reply); err != nil {
			return s.misbehaved(fmt.Errorf("decode reply: %w", err))
		}
		return nil
	}
}

// maxSaid bounds what of a foreign text gets into an error, in bytes.
const maxSaid = 16 << 10

// raised is an exception that a service reported.
type raised struct{ text string }

func (r *raised) Error() string { return r.text }

// parse returns what a signal or a reply carries; an exception is a *raised.
func parse(msg *module.Message) (json.RawMessage, error) {
	switch msg.Type {
	case "signal", "reply":
		var r module.Reply
		if err := decode(msg.Data, &r); err != nil {
			return nil, fmt.Errorf("decode %s: %w", msg.Type, err)
		}
		if r.Reply == nil {
			return nil, fmt.Errorf("the %s has no field \"reply\"", msg.Type)
		}
		return r.Reply, nil
	case "exception":
		var e module.Exception
		if err := decode(msg.Data, &e); err != nil {
			return nil, fmt.Errorf("decode exception: %w", err)
		}
		return nil, &raised{describe(&e)}
	case "":
		return nil, errors.New("the message has no type")
	}
	return nil, fmt.Errorf("the message is of the unknown type %q", shorten(msg.Type, 100))
}

// describe is an exception in the words of its module.
func describe(e *module.Exception) string {
	text := shorten(strings.TrimSpace(e.Value), maxSaid)
	switch e.Name {
	case "", "StageError", "OSError": // say nothing that the value does not
		if text == "" {
			return "it failed and gave no reason"
		}
		return text
	}
	name := shorten(e.Name, 100)
	if text == "" {
		return name // Python's "assert" has no value
	}
	return name + ": " + text
}

// decode is json.Unmarshal for a part of a message, which may not be there.
func decode(data json.RawMessage, v any) error {
	if len(data) == 0 {
		return errors.New("there is no data")
	}
	return json.Unmarshal(data, v)
}

// shorten leaves out the middle of a text that is longer than max bytes.
func shorten(text string, max int) string {
	if len(text) <= max {
		return text
	}
	return strings.ToValidUTF8(text[:max/2], "") + " [...] " + strings.ToValidUTF8(text[len(text)-max/2:], "")
}

// gone is the error of a service that is not there to answer.
func (s *Service) gone() error {
	timer := time.NewTimer(2 * endGrace)
	defer timer.Stop()
	select {
	case <-s.ended:
		return s.died("ended without a reply")
	case <-timer.C:
		return s.fault("closed its connection without a reply")
	}
}

// misbehaved is the error of a service that does not speak the protocol.
func (s *Service) misbehaved(err error) error {
	text := err.Error()
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		text = "it sent a JSON " + wrong.Value + " where an object belongs"
		if wrong.Field != "" {
			text = fmt.Sprintf("it sent a JSON %s as %q", wrong.Value, wrong.Field)
		}
	}
	return s.fault("does not speak the protocol of host services: %s", shorten(text, 1000))
}

// fault is an error that its author has to mend.
func (s *Service) fault(format string, args ...any) error {
	return fmt.Errorf("%s %s; this is a fault of the module %s%s", s.name, fmt.Sprintf(format, args...), s.path, s.said())
}

// died is the error of a service that has ended and should not have.
func (s *Service) died(what string) error {
	state := s.cmd.ProcessState
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
		return fmt.Errorf("%s %s (%s); the kernel does that when there is no memory left%s", s.name, what, state, s.said())
	}
	return s.fault("%s (%s)", what, state)
}

// said is the end of what the service printed, for an error.
func (s *Service) said() string {
	var strip ansi.Stripper
	text := strings.TrimSpace(strip.Strip([]byte(s.output.String())))
	if text == "" {
		return ""
	}
	return "; it printed: " + text
}
