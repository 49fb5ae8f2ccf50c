package module

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/ossify/ossify/jsoncomm"
	"github.com/spf13/pflag"
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
	// ID is the name the engine gave to this instance.
	ID string
}

// Signal tells the engine of progress while a method runs.
func (s *Service) Signal(data any) error {
	return s.send("signal", map[string]any{"reply": data})
}

func (s *Service) send(kind string, data any, files ...*os.File) error {
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
		reply, out, err := dispatch(ctx, s, msg, methods)
		if err != nil {
			err = s.send("exception", Exception{Name: errorType(err), Value: err.Error()})
		} else {
			err = s.send("reply", map[string]any{"reply": reply}, out...)
		}
		jsoncomm.CloseAll(out)
		if err != nil {
			return err
		}
	}
}

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

// Source makes a table entry of a source. contentType names the folder of the
// cache, such as "org.osbuild.files". fetch returns a result for each item.
func Source(name, contentType string, fetch func(ctx context.Context, s *Service, d *Download) ([]ItemResult, error)) Module {
	download := func(ctx context.Context, s *Service, raw json.RawMessage) (any, []*os.File, error) {
		var d Download
		if err := json.Unmarshal(raw, &d); err != nil {
			return nil, nil, fmt.Errorf("decode download call: %w", err)
		}
		d.Cache = filepath.Join(d.Cache, contentType)
		d.Tmp = filepath.Join(d.Cache, ".partial")
		if err := os.MkdirAll(d.Tmp, 0o755); err != nil {
			return nil, nil, err
		}
		results, err := fetch(ctx, s, &d)
		if err != nil {
			return nil, nil, err
		}
		reply := SourceResult{Name: "source " + s.ID, SourceType: s.ID, Success: true, Results: results,
			Output: fmt.Sprintf("source %s finished successfully", s.ID)}
		for _, r := range results {
			if !r.Success {
				reply.Success = false
				reply.Output = fmt.Sprintf("source %s finished unsuccessfully: %s", s.ID, r.Error)
			}
		}
		return reply, nil, nil
	}
	return HostService(name, map[string]Method{"download": download}, nil)
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
