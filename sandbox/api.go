package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ossify/ossify/jsoncomm"
	"golang.org/x/sys/unix"
)

// apiServer answers on one of the API's sockets while a stage runs.
type apiServer struct {
	fd     int
	handle func(msg json.RawMessage, files []*os.File) any
	// turn is held by the conversation whose message is read and handled, so
	// that one message at a time is in memory.
	turn  sync.Mutex
	mu    sync.Mutex
	conns map[*jsoncomm.Conn]bool
	// accepting ends before talking is waited for.
	accepting, talking sync.WaitGroup
	closing            sync.Once
	ending             atomic.Bool
}

const (
	// maxConns bounds what a stage can make the engine hold open.
	maxConns = 16
	// maxRequest is the largest message to an API, in bytes.
	maxRequest = 16 << 20
)

// serveAPI listens at path. handle gets each message, with the descriptors that
// came along, which are closed after it, and returns the answer, or nil for none;
// calls come from one connection at a time.
func serveAPI(path string, handle func(json.RawMessage, []*os.File) any) (*apiServer, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	// Socket addresses are at most 107 bytes long; the folder's may not be.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: short}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	if err := errors.Join(os.Chmod(path, 0o666), unix.Listen(fd, maxConns)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	s := &apiServer{fd: fd, handle: handle, conns: map[*jsoncomm.Conn]bool{}}
	s.accepting.Add(1)
	go s.accept()
	return s, nil
}

func (s *apiServer) accept() {
	defer s.accepting.Done()
	for {
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			if s.ending.Load() {
				return
			}
			time.Sleep(10 * time.Millisecond) // the connection waits
			continue
		default:
			return // it was shut down
		}
		conn := jsoncomm.New(fd)
		conn.Limit = maxRequest
		s.mu.Lock()
		if len(s.conns) >= maxConns {
			s.mu.Unlock()
			conn.Close()
			continue
		}
		s.conns[conn] = true
		s.talking.Add(1)
		s.mu.Unlock()
		go s.converse(conn)
	}
}

func (s *apiServer) converse(conn *jsoncomm.Conn) {
	defer s.talking.Done()
	defer func() {
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		conn.Close()
	}()
	for conn.Wait() == nil {
		reply, err := s.answer(conn)
		if err != nil {
			return
		}
		if reply != nil {
			if err := conn.Send(reply); err != nil {
				return
			}
		}
	}
}

// answer handles the message that is there.
func (s *apiServer) answer(conn *jsoncomm.Conn) (reply any, err error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	var msg json.RawMessage
	files, err := conn.Recv(&msg)
	if err != nil {
		return nil, err
	}
	defer jsoncomm.CloseAll(files)
	return s.handle(msg, files), nil
}

// grace is how long close waits for peers that are still there.
const grace = time.Second

// close hears what was said until now and ends; further calls do nothing. The
// peers should be gone.
func (s *apiServer) close() { s.closing.Do(s.end) }

func (s *apiServer) end() {
	pending := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(grace); time.Now().Before(deadline); {
		n, err := unix.Poll(pending, 0)
		if err != unix.EINTR && n == 0 {
			break
		}
		time.Sleep(time.Millisecond) // accept takes it
	}
	s.ending.Store(true)
	_ = unix.Shutdown(s.fd, unix.SHUT_RDWR)
	s.accepting.Wait()
	late := time.AfterFunc(grace, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for conn := range s.conns {
			conn.Shutdown()
		}
	})
	s.talking.Wait()
	late.Stop()
	unix.Close(s.fd)
}

// StageError is what a module reported on the API socket before it ended.
type StageError struct {
	Type      string `json:"type"`
	Value     string `json:"value"`
	Traceback string `json:"traceback"`
}

// Bounds of what is kept of a stage's exception, in bytes.
const (
	maxErrorType  = 200
	maxErrorValue = 16 << 10
	maxTraceback  = 64 << 10
)

// errorServer takes the exception of a stage.
type errorServer struct {
	mu  sync.Mutex
	err *StageError
}

func (e *errorServer) handle(msg json.RawMessage, _ []*os.File) any {
	var m struct {
		Method    string `json:"method"`
		Exception struct {
			Type      json.RawMessage `json:"type"`
			Value     json.RawMessage `json:"value"`
			Traceback json.RawMessage `json:"traceback"`
		} `json:"exception"`
	}
	if err := json.Unmarshal(msg, &m); err != nil || m.Method != "exception" {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = &StageError{
		Type:      shorten(textOf(m.Exception.Type), maxErrorType),
		Value:     shorten(textOf(m.Exception.Value), maxErrorValue),
		Traceback: shorten(textOf(m.Exception.Traceback), maxTraceback),
	}
	return nil
}

// textOf is a string, or another value's JSON.
func textOf(raw json.RawMessage) string {
	var text string
	if len(raw) > 0 && json.Unmarshal(raw, &text) != nil {
		return string(raw)
	}
	return text
}

func (e *errorServer) get() *StageError {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// TreeStore answers what input services ask of the store.
type TreeStore interface {
	// ReadTree returns where the tree with that stage id can be read, or "".
	ReadTree(id string) (string, error)
	// ReadTreeAt makes a path of that tree readable at target and returns
	// target, or "" if there is no such tree.
	ReadTreeAt(id, target, subtree string) (string, error)
	// Source returns the folder of a content type.
	Source(contentType string) (string, error)
	// Tempdir returns a new folder.
	Tempdir() (string, error)
}

// StoreServer is the API socket of input services.
type StoreServer struct{ api *apiServer }

// ServeStore answers on a socket at path until Close.
func ServeStore(path string, trees TreeStore) (*StoreServer, error) {
	api, err := serveAPI(path, func(msg json.RawMessage, _ []*os.File) any { return answerStore(trees, msg) })
	if err != nil {
		return nil, err
	}
	return &StoreServer{api: api}, nil
}

// Close ends all conversations; the socket's file stays.
func (s *StoreServer) Close() { s.api.close() }

func answerStore(trees TreeStore, msg json.RawMessage) any {
	var m struct {
		Method  string `json:"method"`
		ID      string `json:"object-id"`
		Target  string `json:"target"`
		Subtree string `json:"subtree"`
		Name    string `json:"name"`
	}
	if err := json.Unmarshal(msg, &m); err != nil {
		return map[string]any{"error": "malformed request: " + err.Error()}
	}
	var path string
	var err error
	switch m.Method {
	case "read-tree":
		path, err = trees.ReadTree(m.ID)
	case "read-tree-at":
		path, err = trees.ReadTreeAt(m.ID, m.Target, m.Subtree)
	case "source":
		path, err = trees.Source(m.Name)
	case "mkdtemp":
		path, err = trees.Tempdir()
	default:
		err = fmt.Errorf("unknown method %q", m.Method)
	}
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	if path == "" {
		return map[string]any{"path": nil}
	}
	return map[string]any{"path": path}
}
