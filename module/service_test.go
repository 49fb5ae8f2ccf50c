package module

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/jsoncomm"
	"golang.org/x/sys/unix"
)

// client is the engine's end of a service that runs in this process.
type client struct {
	t    testing.TB
	conn *jsoncomm.Conn
	// ended gets the service's error once it has ended.
	ended chan error
}

// start serves the module in this process, as if the engine had started it.
func start(t testing.TB, m Module) *client {
	t.Helper()
	conn, theirs, err := jsoncomm.Pair()
	if err != nil {
		t.Fatal(err)
	}
	// The service closes its descriptor, so it gets one that no os.File owns.
	fd, err := unix.FcntlInt(theirs.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	c := &client{t: t, conn: conn, ended: make(chan error, 1)}
	go func() {
		c.ended <- m.Main(context.Background(), []string{"--service-id", "test", "--service-fd", fmt.Sprint(fd)})
	}()
	t.Cleanup(func() { conn.Close() })
	return c
}

// recv returns the next message.
func (c *client) recv() (Message, []*os.File) {
	c.t.Helper()
	var msg Message
	files, err := c.conn.Recv(&msg)
	if err != nil {
		c.t.Fatal(err)
	}
	return msg, files
}

// send sends a message in the form of the protocol.
func (c *client) send(kind string, data any) {
	c.t.Helper()
	if err := c.conn.Send(map[string]any{"type": kind, "data": data}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) call(method string, args any) Message {
	c.t.Helper()
	c.send("method", map[string]any{"name": method, "args": args})
	msg, files := c.recv()
	jsoncomm.CloseAll(files)
	return msg
}

// leave closes the connection and returns how the service ended.
func (c *client) leave() error {
	c.conn.Shutdown()
	return <-c.ended
}

// echo answers with its arguments, or does what they say.
func echo(ctx context.Context, s *Service, args json.RawMessage) (any, []*os.File, error) {
	switch string(args) {
	case `"fail"`:
		return nil, nil, errors.New("as you wish")
	case `"no such file"`:
		_, err := os.Open("/no/such/file")
		return nil, nil, err
	case `"no JSON"`:
		return func() {}, nil, nil
	case `"id"`:
		return s.ID, nil, nil
	case `"large"`:
		return strings.Repeat("x", 1<<20), nil, nil
	case `"signals"`:
		for i := range 3 {
			if err := s.Signal(i); err != nil {
				return nil, nil, err
			}
		}
	case `"descriptor"`:
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		_, err = w.WriteString("through a pipe")
		return nil, []*os.File{r}, errors.Join(err, w.Close())
	case `"wait"`:
		<-ctx.Done()
		return nil, nil, context.Cause(ctx)
	}
	return args, nil, nil
}

func echoModule() Module {
	return HostService("org.ossify.echo", map[string]Method{"echo": echo}, nil)
}

func TestCalls(t *testing.T) {
	c := start(t, echoModule())
	tests := []struct{ name, kind, data, wantKind, want string }{
		{"reply", "method", `{"name":"echo","args":{"a":[1,null]}}`, "reply", `{"reply":{"a":[1,null]}}`},
		{"no arguments", "method", `{"name":"echo"}`, "reply", `{"reply":null}`},
		{"id", "method", `{"name":"echo","args":"id"}`, "reply", `{"reply":"test"}`},
		{"large", "method", `{"name":"echo","args":"large"}`, "reply", `{"reply":"` + strings.Repeat("x", 1<<20) + `"}`},
		{"failing", "method", `{"name":"echo","args":"fail"}`, "exception", `{"name":"StageError","value":"as you wish","backtrace":""}`},
		{"failing system call", "method", `{"name":"echo","args":"no such file"}`, "exception",
			`{"name":"OSError","value":"open /no/such/file: no such file or directory","backtrace":""}`},
		{"no JSON", "method", `{"name":"echo","args":"no JSON"}`, "exception",
			`{"name":"StageError","value":"internal error: encode reply: json: unsupported type: func()","backtrace":""}`},
		{"unknown method", "method", `{"name":"ohce"}`, "exception", `{"name":"StageError","value":"unknown method \"ohce\"","backtrace":""}`},
		{"unknown type", "methods", `{"name":"echo"}`, "exception", `{"name":"StageError","value":"unknown message type \"methods\"","backtrace":""}`},
		{"no call", "method", `["echo"]`, "exception",
			`{"name":"StageError","value":"decode method call: json: cannot unmarshal array into Go value of type module.Call","backtrace":""}`},
	}
	for _, test := range tests {
		c.send(test.kind, json.RawMessage(test.data))
		msg, files := c.recv()
		jsoncomm.CloseAll(files)
		if msg.Type != test.wantKind || string(msg.Data) != test.want {
			t.Errorf("%s: got %s %.200s, want %s %.200s", test.name, msg.Type, msg.Data, test.wantKind, test.want)
		}
	}
	if err := c.leave(); err != nil {
		t.Errorf("the service ended with %v", err)
	}
}

func TestSignalsComeBeforeTheReply(t *testing.T) {
	c := start(t, echoModule())
	c.send("method", map[string]any{"name": "echo", "args": "signals"})
	for _, want := range []string{`signal {"reply":0}`, `signal {"reply":1}`, `signal {"reply":2}`, `reply {"reply":"signals"}`} {
		msg, _ := c.recv()
		if got := msg.Type + " " + string(msg.Data); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestDescriptorsOfAReply(t *testing.T) {
	c := start(t, echoModule())
	c.send("method", map[string]any{"name": "echo", "args": "descriptor"})
	msg, files := c.recv()
	if msg.Type != "reply" || len(files) != 1 {
		t.Fatalf("got %s with %d descriptors", msg.Type, len(files))
	}
	defer jsoncomm.CloseAll(files)
	// The text ends only if the service has let go of its own copies.
	if text, err := io.ReadAll(files[0]); err != nil || string(text) != "through a pipe" {
		t.Errorf("got %q, %v", text, err)
	}
}

// TestEngineGone: a call ends when nobody waits for it any more, and the
// service cleans up.
func TestEngineGone(t *testing.T) {
	stopped := false
	m := HostService("org.ossify.echo", map[string]Method{"echo": echo}, func() error {
		stopped = true
		return errors.New("could not clean up")
	})
	c := start(t, m)
	c.send("method", map[string]any{"name": "echo", "args": "wait"})
	if err := c.leave(); err == nil || err.Error() != "could not clean up" || !stopped {
		t.Errorf("got %v, cleaned up: %v; want the error of the clean-up", err, stopped)
	}
}

func TestGarbageEndsTheService(t *testing.T) {
	c := start(t, echoModule())
	if err := c.conn.Send("a string"); err != nil {
		t.Fatal(err)
	}
	if err := <-c.ended; err == nil || !strings.Contains(err.Error(), "decode message") {
		t.Errorf("got %v", err)
	}
}

func TestServiceIsNoCommand(t *testing.T) {
	for _, argv := range [][]string{nil, {"--service-id", "x"}, {"--frobnicate"}} {
		if err := echoModule().Main(context.Background(), argv); err == nil {
			t.Errorf("started with %q: no error", argv)
		}
	}
}

func TestSourceReply(t *testing.T) {
	dir := t.TempDir()
	m := Source("org.ossify.wish", "org.ossify.things", func(_ context.Context, _ *Service, d *Download) ([]ItemResult, error) {
		if st, err := os.Stat(d.Tmp); err != nil || !st.IsDir() {
			return nil, fmt.Errorf("no folder for downloads: %w", err)
		}
		if rel, err := filepath.Rel(filepath.Join(dir, "org.ossify.things"), d.Cache); err != nil || rel != "." {
			return nil, fmt.Errorf("the cache is %s", d.Cache)
		}
		var results []ItemResult
		for _, key := range []string{"a", "b", "broken"} {
			if _, ok := d.Items[key]; ok {
				r := ItemResult{Success: key != "broken"}
				if !r.Success {
					r.Error = "broken is broken"
				}
				results = append(results, r)
			}
		}
		return results, nil
	})
	tests := []struct{ items, want string }{
		{`{}`, `{"name":"source org.ossify.wish","source_type":"org.ossify.wish","success":true,"output":"source org.ossify.wish finished successfully","results":[]}`},
		{`{"a":{}}`, `{"name":"source org.ossify.wish","source_type":"org.ossify.wish","success":true,"output":"source org.ossify.wish finished successfully",` +
			`"results":[{"success":true,"metadata":{},"error":""}]}`},
		{`{"a":{},"broken":{}}`, `{"name":"source org.ossify.wish","source_type":"org.ossify.wish","success":false,"output":"source org.ossify.wish finished unsuccessfully: broken is broken",` +
			`"results":[{"success":true,"metadata":{},"error":""},{"success":false,"metadata":{},"error":"broken is broken"}]}`},
	}
	c := start(t, m)
	for _, test := range tests {
		msg := c.call("download", map[string]any{"items": json.RawMessage(test.items), "options": nil, "cache": dir, "output": nil, "checksums": []string{}})
		var reply Reply
		if err := json.Unmarshal(msg.Data, &reply); err != nil || msg.Type != "reply" {
			t.Fatalf("%s: got %s %s", test.items, msg.Type, msg.Data)
		}
		if string(reply.Reply) != test.want {
			t.Errorf("%s: got %s\nwant %s", test.items, reply.Reply, test.want)
		}
	}
	if msg := c.call("download", "no object"); msg.Type != "exception" || !strings.Contains(string(msg.Data), "decode download call") {
		t.Errorf("got %s %s", msg.Type, msg.Data)
	}
}

func TestSourceCopy(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(from, "org.ossify.things"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"org.ossify.things/sha256:00": "content", "secret": "not yours"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := start(t, Source("org.ossify.wish", "org.ossify.things", nil))
	msg := c.call("copy", map[string]any{"items": map[string]any{"sha256:00": nil, "sha256:11": nil, "../secret": nil}, "cache": from, "dst_cache": to, "options": nil})
	var reply struct{ Reply SourceResult }
	if err := json.Unmarshal(msg.Data, &reply); err != nil || msg.Type != "reply" {
		t.Fatalf("got %s %s", msg.Type, msg.Data)
	}
	for i, want := range []struct{ item, failure string }{{"../secret", "no checksum"}, {"sha256:00", ""}, {"sha256:11", "no such file"}} {
		got := reply.Reply.Results[i]
		if got.Metadata["checksum"] != want.item || got.Success != (want.failure == "") || !strings.Contains(got.Error, want.failure) {
			t.Errorf("got %+v, want %s to fail with %q", got, want.item, want.failure)
		}
	}
	for pattern, want := range map[string]int{"org.ossify.things/[^.]*": 1, "org.ossify.things/.partial/*": 0} {
		if found, err := filepath.Glob(filepath.Join(to, pattern)); err != nil || len(found) != want {
			t.Errorf("the copy holds %v, %v", found, err)
		}
	}
	data, err := os.ReadFile(filepath.Join(to, "org.ossify.things", "sha256:00"))
	if err != nil || string(data) != "content" {
		t.Errorf("got %q, %v", data, err)
	}
}

// storeAt answers questions of inputs at a socket, with answers by request.
func storeAt(t *testing.T, answers map[string]string) (path string, asked chan string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "store")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	asked = make(chan string, len(answers))
	go func() {
		peer, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		unix.Close(fd)
		if err != nil {
			return
		}
		conn := jsoncomm.New(peer)
		defer conn.Close()
		for {
			var request map[string]string
			if _, err := conn.Recv(&request); err != nil {
				return
			}
			text, err := json.Marshal(request)
			if err != nil {
				return
			}
			asked <- string(text)
			if err := conn.Send(json.RawMessage(answers[request["method"]+" "+request["object-id"]+request["name"]])); err != nil {
				return
			}
		}
	}()
	return path, asked
}

func TestInput(t *testing.T) {
	path, asked := storeAt(t, map[string]string{
		"source org.osbuild.files": `{"path":"/store/sources/org.osbuild.files"}`,
		"read-tree-at known":       `{"path":"/target/x"}`,
		"read-tree-at unknown":     `{"path":null}`,
		"read-tree-at broken":      `{"error":"the tree is broken"}`,
	})
	m := InputModule("org.ossify.input", func(_ context.Context, call *MapCall, store *StoreClient) (any, error) {
		dir, err := store.Source("org.osbuild.files")
		if err != nil {
			return nil, err
		}
		var errs []string
		for _, id := range []string{"known", "unknown", "broken"} {
			errs = append(errs, fmt.Sprint(store.ReadTreeAt(id, call.Target+"/x", "/etc")))
		}
		return map[string]any{"path": call.Target, "origin": call.Origin, "dir": dir, "errs": errs, "refs": len(call.Refs)}, nil
	})
	c := start(t, m)
	msg := c.call("map", map[string]any{
		"origin": "org.osbuild.source", "refs": map[string]any{"a": map[string]any{}}, "target": "/target",
		"options": map[string]any{}, "api": map[string]string{"store": path},
	})
	want := `{"reply":{"dir":"/store/sources/org.osbuild.files","errs":["\u003cnil\u003e","no tree unknown in the store","the tree is broken"],` +
		`"origin":"org.osbuild.source","path":"/target","refs":1}}`
	if msg.Type != "reply" || string(msg.Data) != want {
		t.Errorf("got %s %s\nwant %s", msg.Type, msg.Data, want)
	}
	for _, want := range []string{
		`{"method":"source","name":"org.osbuild.files"}`,
		`{"method":"read-tree-at","object-id":"known","subtree":"/etc","target":"/target/x"}`,
	} {
		if got := <-asked; got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
	}
	gone := c.call("map", map[string]any{"api": map[string]string{"store": filepath.Join(t.TempDir(), "none")}})
	if gone.Type != "exception" || !strings.Contains(string(gone.Data), "connect to ") {
		t.Errorf("without a store: got %s %s", gone.Type, gone.Data)
	}
}

// FuzzService sends foreign messages to a source, an input and a plain service:
// each gets exactly one answer, or ends the service with an error.
func FuzzService(f *testing.F) {
	for _, message := range []string{
		`{"type":"method","data":{"name":"echo","args":1}}`,
		`{"type":"method","data":{"name":"download","args":{"items":{"a":null},"options":null}}}`,
		`{"type":"method","data":{"name":"download","args":[]}}`,
		`{"type":"method","data":{"name":"copy","args":{"items":{"../a":0}}}}`,
		`{"type":"method","data":{"name":"map","args":{"refs":{},"api":{"store":"\u0000"}}}}`,
		`{"type":"method","data":null}`, `{"type":"reply"}`, `{}`, `null`, `[]`, `{"type":1}`,
	} {
		f.Add(message)
	}
	dir := f.TempDir()
	source := Source("org.ossify.wish", "org.ossify.things", func(_ context.Context, s *Service, d *Download) ([]ItemResult, error) {
		return make([]ItemResult, len(d.Items)), s.Signal(len(d.Items))
	})
	input := InputModule("org.ossify.input", func(_ context.Context, call *MapCall, store *StoreClient) (any, error) {
		return map[string]any{"path": call.Target}, store.ReadTreeAt("x", call.Target, "/")
	})
	f.Fuzz(func(t *testing.T, message string) {
		var parsed struct {
			Data struct {
				Args struct {
					Cache    *string `json:"cache"`
					DstCache *string `json:"dst_cache"`
				} `json:"args"`
			} `json:"data"`
		}
		if !json.Valid([]byte(message)) {
			return
		}
		// A cache is where the engine says; not wherever chance says.
		_ = json.Unmarshal([]byte(message), &parsed)
		if parsed.Data.Args.Cache != nil || parsed.Data.Args.DstCache != nil {
			return
		}
		t.Chdir(dir)
		for _, m := range []Module{source, input, echoModule()} {
			c := start(t, m)
			if err := c.conn.Send(json.RawMessage(message)); err != nil {
				t.Fatal(err)
			}
			for {
				var answer Message
				files, err := c.conn.Recv(&answer)
				jsoncomm.CloseAll(files)
				if errors.Is(err, io.EOF) {
					if err := <-c.ended; err == nil {
						t.Fatalf("%s ended without an answer and without an error", m.Name)
					}
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if answer.Type == "signal" {
					continue
				}
				if answer.Type != "reply" && answer.Type != "exception" {
					t.Fatalf("%s answered with %q", m.Name, answer.Type)
				}
				if err := c.leave(); err != nil {
					t.Fatalf("%s ended with %v", m.Name, err)
				}
				break
			}
		}
	})
}
