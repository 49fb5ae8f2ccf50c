package module

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/ossify/ossify/jsoncomm"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// Message is one packet between the engine and a host service.
type Message struct {
	// Type is "method", "reply", "signal" or "exception".
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

// Call is the data of a method message.
type Call struct {
	Name string          `json:"name"`
	Args json.RawMessage `json:"args"`
}

// Reply is the data of a reply or signal message.
type Reply struct {
	Reply json.RawMessage `json:"reply"`
}

// Exception is the data of an exception message.
type Exception struct {
	Name      string `json:"name"`
	Value     string `json:"value"`
	Backtrace string `json:"backtrace"`
}

// Service is a host service while it runs.
type Service struct {
	conn *jsoncomm.Conn
	mu   sync.Mutex // a connection is for one goroutine at a time
	// ID is the name the engine gave to this instance.
	ID string
}

// Signal tells the engine of progress while a method runs. It may be called by
// several goroutines, but not after the method has returned.
func (s *Service) Signal(data any) error {
	return s.send("signal", map[string]any{"reply": data})
}

func (s *Service) send(kind string, data any, files ...*os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.Send(map[string]any{"type": kind, "data": data}, files...)
}

// Method answers one call. Descriptors it returns are sent and then closed.
type Method func(ctx context.Context, s *Service, args json.RawMessage) (any, []*os.File, error)

// HostService makes a table entry of a source, input, device or mount. stop,
// which may be nil, runs when the engine has closed the connection.
func HostService(name string, methods map[string]Method, stop func() error) Module {
	return Module{Name: name, Main: func(ctx context.Context, argv []string) error {
		return serve(ctx, name, argv, methods, stop)
	}}
}

func serve(ctx context.Context, name string, argv []string, methods map[string]Method, stop func() error) (err error) {
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fd := flags.Int("service-fd", -1, "socket to the engine")
	id := flags.String("service-id", "", "name of this instance")
	if err := flags.Parse(argv); err != nil {
		return err
	}
	if *fd < 0 {
		return fmt.Errorf("%s is a host service and is started by ossify with --service-fd", name)
	}
	// The engine ends a service by closing its socket, in the right order.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM)

	s := &Service{conn: jsoncomm.New(*fd), ID: *id}
	defer s.conn.Close()
	if stop != nil {
		defer func() {
			if stopErr := stop(); err == nil {
				err = stopErr
			}
		}()
	}
	for {
		var msg Message
		files, err := s.conn.Recv(&msg)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		jsoncomm.CloseAll(files)
		err = s.answer(ctx, msg, methods)
		if errors.Is(err, syscall.EPIPE) {
			return nil // nobody waits for the answer any more
		}
		if err != nil {
			return err
		}
	}
}

// answer calls the method and sends its reply or its error.
func (s *Service) answer(ctx context.Context, msg Message, methods map[string]Method) error {
	watched, stop, err := s.watch(ctx)
	if err != nil {
		return err
	}
	reply, files, err := dispatch(watched, s, msg, methods)
	stop()
	defer jsoncomm.CloseAll(files)
	var data json.RawMessage
	if err == nil {
		// A reply that is no JSON is the module's fault, and is told to the engine.
		if data, err = json.Marshal(reply); err != nil {
			err = fmt.Errorf("internal error: encode reply: %w", err)
		}
	}
	if err != nil {
		return s.send("exception", Exception{Name: errorType(err), Value: err.Error()})
	}
	return s.send("reply", Reply{Reply: data}, files...)
}

// watch returns a context that is cancelled when the engine has closed the
// connection, so that a call does not go on for nobody. stop ends the watching.
func (s *Service) watch(ctx context.Context) (_ context.Context, stop func(), err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("watch the engine: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Without events asked for, a hang-up is reported nevertheless.
		fds := []unix.PollFd{{Fd: int32(s.conn.FD())}, {Fd: int32(ends[0])}}
		for {
			_, err := unix.Poll(fds, -1)
			if err == unix.EINTR {
				continue
			}
			if err == nil && fds[1].Revents == 0 {
				cancel(errEngineGone)
			}
			return
		}
	}()
	return ctx, func() {
		unix.Close(ends[1]) // wakes the goroutine
		<-done
		unix.Close(ends[0])
		cancel(nil)
	}, nil
}

// errEngineGone is why a call is cancelled.
var errEngineGone = errors.New("the engine has closed the connection")

func dispatch(ctx context.Context, s *Service, msg Message, methods map[string]Method) (any, []*os.File, error) {
	if msg.Type != "method" {
		return nil, nil, fmt.Errorf("unknown message type %q", msg.Type)
	}
	var call Call
	if err := json.Unmarshal(msg.Data, &call); err != nil {
		return nil, nil, fmt.Errorf("decode method call: %w", err)
	}
	method, ok := methods[call.Name]
	if !ok {
		return nil, nil, fmt.Errorf("unknown method %q", call.Name)
	}
	return method(ctx, s, call.Args)
}

// Download is a source's call to fetch its items.
type Download struct {
	// Items by checksum ("sha256:..."), as they stand in the manifest.
	Items map[string]json.RawMessage `json:"items"`
	// Options of the source as they stand in the manifest; may be null.
	Options json.RawMessage `json:"options"`
	// Cache is the directory of this content type; content is published in
	// it under its checksum by rename, never before it was verified.
	Cache string `json:"cache"`
	// Secrets are what --secrets has for this source; may be null.
	Secrets json.RawMessage `json:"secrets"`
	// Tmp is a directory on the same filesystem for unverified content; it
	// survives a broken download, so that the next one can resume.
	Tmp string `json:"-"`
}

// ItemResult is what became of one item (osbuild's SourceItemResult).
type ItemResult struct {
	Success  bool           `json:"success"`
	Metadata map[string]any `json:"metadata"`
	Error    string         `json:"error"`
}

// SourceResult is the reply to a download call (osbuild's SourceResults).
type SourceResult struct {
	Name       string       `json:"name"`
	SourceType string       `json:"source_type"`
	Success    bool         `json:"success"`
	Output     string       `json:"output"`
	Results    []ItemResult `json:"results"`
}

// partialDir is the folder of a cache for content that is not verified yet.
const partialDir = ".partial"

// Source makes a table entry of a source. contentType names the folder of the
// cache, such as "org.osbuild.files".
func Source(name, contentType string, fetch Fetch) Module {
	return source(name, contentType, fetch, copySource)
}

// SourceElsewhere makes a table entry of a source that leaves its content where
// it is, so that nothing of it is in a cache or can be copied to another.
func SourceElsewhere(name, contentType string, fetch Fetch) Module {
	return source(name, contentType, fetch, func(context.Context, string, json.RawMessage) ([]ItemResult, error) { return nil, nil })
}

// Fetch answers a source's download call with a result for each item.
type Fetch func(ctx context.Context, s *Service, d *Download) ([]ItemResult, error)

func source(name, contentType string, fetch Fetch, copyAll func(ctx context.Context, contentType string, raw json.RawMessage) ([]ItemResult, error)) Module {
	download := func(ctx context.Context, s *Service, raw json.RawMessage) (any, []*os.File, error) {
		var d Download
		if err := json.Unmarshal(raw, &d); err != nil {
			return nil, nil, fmt.Errorf("decode download call: %w", err)
		}
		d.Cache = filepath.Join(d.Cache, contentType)
		d.Tmp = filepath.Join(d.Cache, partialDir)
		if err := os.MkdirAll(d.Tmp, 0o755); err != nil {
			return nil, nil, err
		}
		results, err := fetch(ctx, s, &d)
		if err != nil {
			return nil, nil, err
		}
		return sourceResult(name, results), nil, nil
	}
	copyItems := func(ctx context.Context, _ *Service, raw json.RawMessage) (any, []*os.File, error) {
		results, err := copyAll(ctx, contentType, raw)
		if err != nil {
			return nil, nil, err
		}
		return sourceResult(name, results), nil, nil
	}
	return HostService(name, map[string]Method{"download": download, "copy": copyItems}, nil)
}

func sourceResult(name string, results []ItemResult) SourceResult {
	reply := SourceResult{
		Name: "source " + name, SourceType: name, Success: true, Results: []ItemResult{},
		Output: fmt.Sprintf("source %s finished successfully", name),
	}
	for _, r := range results {
		if r.Metadata == nil {
			r.Metadata = map[string]any{} // osbuild wants an object
		}
		reply.Results = append(reply.Results, r)
		if !r.Success {
			reply.Success = false
			reply.Output = fmt.Sprintf("source %s finished unsuccessfully: %s", name, r.Error)
		}
	}
	return reply
}

// copySource answers osbuild's call "copy": it copies items of one cache to
// another (osbuild/sources.py).
func copySource(ctx context.Context, contentType string, raw json.RawMessage) ([]ItemResult, error) {
	var call struct {
		Items    map[string]json.RawMessage `json:"items"`
		Cache    string                     `json:"cache"`
		DstCache string                     `json:"dst_cache"`
	}
	if err := json.Unmarshal(raw, &call); err != nil {
		return nil, fmt.Errorf("decode copy call: %w", err)
	}
	from, to := filepath.Join(call.Cache, contentType), filepath.Join(call.DstCache, contentType)
	if err := os.MkdirAll(filepath.Join(to, partialDir), 0o755); err != nil {
		return nil, err
	}
	var results []ItemResult
	for _, item := range slices.Sorted(maps.Keys(call.Items)) {
		result := ItemResult{Success: true, Metadata: map[string]any{"checksum": item}}
		err := context.Cause(ctx)
		if err == nil {
			err = copyItem(filepath.Join(from, item), filepath.Join(to, item), item)
		}
		if err != nil {
			result.Success, result.Error = false, fmt.Sprintf("copy %s: %v", item, err)
		}
		results = append(results, result)
	}
	return results, nil
}

// copyItem makes the copy under another name first: a name of a cache never
// stands for half a file, or half a folder.
func copyItem(from, to, item string) error {
	if item != filepath.Base(item) || !filepath.IsLocal(item) || item == "." {
		return errors.New("the item's name is no checksum")
	}
	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return copyDir(from, to)
	}
	return copyFile(from, to)
}

// copyDir copies a folder; it is nothing to be copied if the other cache has it.
func copyDir(from, to string) (err error) {
	tmp, err := os.MkdirTemp(filepath.Join(filepath.Dir(to), partialDir), "copy-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	dir := filepath.Join(tmp, filepath.Base(to))
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		return err
	}
	err = os.Rename(dir, to)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.CreateTemp(filepath.Join(filepath.Dir(to), partialDir), "copy-")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, dst.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(dst.Name()))
		}
	}()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	if err := errors.Join(dst.Chmod(0o644), dst.Sync()); err != nil {
		return err
	}
	return os.Rename(dst.Name(), to)
}

// MapCall is an input's call to provide its content below Target.
type MapCall struct {
	// Origin is "org.osbuild.source" or "org.osbuild.pipeline".
	Origin string `json:"origin"`
	// Refs are checksums or stage ids with their options.
	Refs map[string]json.RawMessage `json:"refs"`
	// Target is an empty directory that becomes visible to the stage.
	Target  string          `json:"target"`
	Options json.RawMessage `json:"options"`
	API     struct {
		// Store is the path of the store server's socket.
		Store string `json:"store"`
	} `json:"api"`
}

// InputModule makes a table entry of an input; mapInput returns the reply,
// whose path is below the call's target.
func InputModule(name string, mapInput func(ctx context.Context, call *MapCall, store *StoreClient) (any, error)) Module {
	method := func(ctx context.Context, _ *Service, raw json.RawMessage) (any, []*os.File, error) {
		var call MapCall
		if err := json.Unmarshal(raw, &call); err != nil {
			return nil, nil, fmt.Errorf("decode map call: %w", err)
		}
		conn, err := jsoncomm.Dial(call.API.Store)
		if err != nil {
			return nil, nil, err
		}
		defer conn.Close()
		reply, err := mapInput(ctx, &call, &StoreClient{conn: conn})
		return reply, nil, err
	}
	return HostService(name, map[string]Method{"map": method}, nil)
}

// StoreClient asks the engine's store server for trees and sources.
type StoreClient struct{ conn *jsoncomm.Conn }

func (c *StoreClient) ask(msg map[string]any) (string, error) {
	if err := c.conn.Send(msg); err != nil {
		return "", err
	}
	var reply struct {
		Path  string `json:"path"`
		Error string `json:"error"`
	}
	files, err := c.conn.Recv(&reply)
	if err != nil {
		return "", fmt.Errorf("ask store: %w", err)
	}
	jsoncomm.CloseAll(files)
	if reply.Error != "" {
		return "", errors.New(reply.Error)
	}
	return reply.Path, nil
}

// ReadTreeAt mounts path of the tree with that stage id read-only at target.
// The engine unmounts it when the stage has ended.
func (c *StoreClient) ReadTreeAt(id, target, path string) error {
	got, err := c.ask(map[string]any{"method": "read-tree-at", "object-id": id, "target": target, "subtree": path})
	if err != nil {
		return err
	}
	if got == "" {
		return fmt.Errorf("no tree %s in the store", id)
	}
	return nil
}

// Source returns the directory of a content type, such as "org.osbuild.files".
func (c *StoreClient) Source(contentType string) (string, error) {
	return c.ask(map[string]any{"method": "source", "name": contentType})
}
