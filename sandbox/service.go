package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/ossify/ossify/jsoncomm"
	"github.com/ossify/ossify/module"
)

// Service is a running host service: a source, input, device or mount.
type Service struct {
	name   string
	conn   *jsoncomm.Conn
	cmd    *exec.Cmd
	output *tail
	stop   func() bool
	// ended gets how the process ended.
	ended chan error
}

// StartService starts the executable at path as a host service named id, with
// dir as its working directory. libdir is where its Python modules are found.
// The caller closes it.
func StartService(ctx context.Context, path, libdir, dir, id string) (*Service, error) {
	name := filepath.Base(path)
	conn, theirs, err := jsoncomm.Pair()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer theirs.Close()
	s := &Service{name: name, conn: conn, output: &tail{max: 16 << 10}}
	s.cmd = exec.Command(path, "--service-id", id, "--service-fd", "3")
	s.cmd.Dir = dir
	s.cmd.ExtraFiles = []*os.File{theirs}
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.cmd.Env = append(os.Environ(), "PYTHONPATH="+libdir, "PYTHONUNBUFFERED=1")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	s.ended = make(chan error, 1)
	go func() {
		// The death signal goes by the thread that started the process,
		// so that thread must not end before it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			s.ended <- s.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		conn.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	// A cancelled build does not wait for the reply to a call.
	s.stop = context.AfterFunc(ctx, func() {
		_ = s.cmd.Process.Kill()
		conn.Shutdown()
	})
	return s, nil
}

// Close ends the service and waits for it.
func (s *Service) Close() error {
	s.conn.Shutdown()
	err := <-s.ended
	s.stop()
	s.conn.Close()
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		return nil // killed by us
	}
	if err != nil {
		return fmt.Errorf("%s: %w%s", s.name, err, s.said())
	}
	return nil
}

// Call calls a method and decodes its reply into reply, unless that is nil.
// onSignal, which may be nil, gets what the service tells meanwhile.
func (s *Service) Call(method string, args, reply any, onSignal func(json.RawMessage)) error {
	data, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("call %s: %w", s.name, err)
	}
	call := map[string]any{"type": "method", "data": module.Call{Name: method, Args: data}}
	if err := s.conn.Send(call); err != nil {
		return fmt.Errorf("call %s: %w%s", s.name, err, s.said())
	}
	for {
		var msg module.Message
		files, err := s.conn.Recv(&msg)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s ended without a reply%s", s.name, s.said())
		}
		if err != nil {
			return fmt.Errorf("%s: %w%s", s.name, err, s.said())
		}
		jsoncomm.CloseAll(files)
		switch msg.Type {
		case "signal":
			var sig module.Reply
			if err := json.Unmarshal(msg.Data, &sig); err != nil {
				return fmt.Errorf("%s: decode signal: %w", s.name, err)
			}
			if onSignal != nil {
				onSignal(sig.Reply)
			}
		case "reply":
			var r module.Reply
			if err := json.Unmarshal(msg.Data, &r); err != nil {
				return fmt.Errorf("%s: decode reply: %w", s.name, err)
			}
			if reply == nil {
				return nil
			}
			if err := json.Unmarshal(r.Reply, reply); err != nil {
				return fmt.Errorf("%s: decode reply: %w", s.name, err)
			}
			return nil
		case "exception":
			var e module.Exception
			if err := json.Unmarshal(msg.Data, &e); err != nil {
				return fmt.Errorf("%s: decode exception: %w", s.name, err)
			}
			return fmt.Errorf("%s: %s", s.name, e.Value)
		default:
			return fmt.Errorf("%s sent a message of unknown type %q", s.name, msg.Type)
		}
	}
}

// said is the end of what the service printed, for an error.
func (s *Service) said() string {
	text := strings.TrimSpace(s.output.String())
	if text == "" {
		return ""
	}
	return "; it printed: " + text
}
