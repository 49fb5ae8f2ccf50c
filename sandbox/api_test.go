package sandbox

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ossify/ossify/jsoncomm"
	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// TestAcceptWithoutDescriptors: a connection that comes when no descriptor is
// left is served later, and the server can be closed.
func TestAcceptWithoutDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	api, err := serveAPI(path, func(json.RawMessage, []*os.File) any { return "answer" })
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := jsoncomm.New(fd)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 0, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	connectErr := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	sendErr := conn.Send("question")
	api.mu.Lock()
	accepted := len(api.conns)
	api.mu.Unlock()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(connectErr, sendErr); err != nil || accepted != 0 {
		t.Fatalf("%v; %d connections were accepted", err, accepted)
	}
	var answer string
	if _, err := conn.Recv(&answer); err != nil || answer != "answer" {
		t.Errorf("got %q, %v", answer, err)
	}
	conn.Close()
	api.close()
}

func TestExceptionsOfStages(t *testing.T) {
	long := strings.Repeat("ä", 1<<20)
	for _, c := range []struct {
		message string
		want    *StageError
	}{
		{`{"method": "exception", "exception": {"type": "E", "value": "v", "traceback": "t"}}`, &StageError{"E", "v", "t"}},
		{`{"method": "exception", "exception": {"type": 7, "value": {"a": 1}, "traceback": null}}`, &StageError{"7", `{"a": 1}`, ""}},
		{`{"method": "exception", "exception": {}}`, &StageError{}},
		{`{"method": "exception", "exception": []}`, nil},
		{`{"method": "add-metadata"}`, nil},
		{`[]`, nil},
	} {
		var e errorServer
		e.handle(json.RawMessage(c.message), nil)
		got := e.get()
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: got %+v, want %+v", c.message, got, c.want)
		}
	}
	var e errorServer
	e.handle(json.RawMessage(`{"method": "exception", "exception": {"type": "`+long+`", "value": "`+long+`", "traceback": "`+long+`"}}`), nil)
	if got := e.get(); len(got.Type) > 2*maxErrorType || len(got.Value) > 2*maxErrorValue || len(got.Traceback) > 2*maxTraceback ||
		!utf8.ValidString(got.Type+got.Value+got.Traceback) || !strings.HasSuffix(got.Value, "ä") {
		t.Errorf("%d, %d and %d bytes are kept", len(got.Type), len(got.Value), len(got.Traceback))
	}
}

// noTrees is a store without anything.
type noTrees struct{}

func (noTrees) ReadTree(string) (string, error)                { return "", nil }
func (noTrees) ReadTreeAt(_, target, _ string) (string, error) { return target, nil }
func (noTrees) Source(string) (string, error)                  { return "", os.ErrNotExist }
func (noTrees) Tempdir() (string, error)                       { return "/", nil }

// FuzzRequests sends foreign requests to both servers: a stage's exception is
// bounded, a question to the store has one answer.
func FuzzRequests(f *testing.F) {
	for _, message := range []string{
		`{"method": "exception", "exception": {"type": "E", "value": "v", "traceback": "t"}}`,
		`{"method": "exception", "exception": {"value": [[["\ud800"]]]}}`, `{"method": 1}`, `null`, `[]`, `{`,
		`{"method": "read-tree", "object-id": "x"}`, `{"method": "read-tree-at", "object-id": "x", "target": "/a/../b", "subtree": ".."}`,
		`{"method": "source", "name": "../x"}`, `{"method": "mkdtemp"}`,
	} {
		f.Add([]byte(message))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		var e errorServer
		if answer := e.handle(message, nil); answer != nil {
			t.Errorf("an exception was answered with %v", answer)
		}
		if got := e.get(); got != nil && (!json.Valid(message) || len(got.Value) > 2*maxErrorValue) {
			t.Errorf("%q became %+v", message, got)
		}
		answer, ok := answerStore(noTrees{}, message).(map[string]any)
		if !ok || len(answer) != 1 {
			t.Errorf("%q: answer %v", message, answer)
		}
	})
}

// FuzzMessages takes in foreign messages of a service.
func FuzzMessages(f *testing.F) {
	for _, message := range []string{
		`{"type":"reply","data":{"reply":{"path":"/"}}}`, `{"type":"reply","data":{"reply":null}}`, `{"type":"reply"}`, `{"type":"signal","data":[]}`,
		`{"type":"exception","data":{"name":"E","value":"v","backtrace":"b"}}`, `{"type":"exception","data":{"name":7}}`, `{"type":"exception","data":null}`,
		`{"type":"method","data":{}}`, `{}`, `null`,
	} {
		f.Add([]byte(message))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		var msg module.Message
		if json.Unmarshal(message, &msg) != nil {
			return
		}
		answer, err := parse(&msg)
		if (err == nil) == (answer == nil) {
			t.Fatalf("%q: answer %q, error %v", message, answer, err)
		}
		if err == nil && (!json.Valid(answer) || msg.Type != "reply" && msg.Type != "signal") {
			t.Errorf("%q: answer %q", message, answer)
		}
		if err != nil && (strings.TrimSpace(err.Error()) == "" || len(err.Error()) > 4*maxSaid) {
			t.Errorf("%q: error %q", message, err)
		}
	})
}

// FuzzIDMap reads id maps: a nested one maps ids to themselves, in the same pieces.
func FuzzIDMap(f *testing.F) {
	for _, text := range []string{"0 1000 1\n1 100000 65536\n", "         0          0 4294967295\n", "", "\n", "0 0\n", "0 x 1\n", "-1 0 -1\n", "0 0 99999999999999999999\n", "0 0 1 2\n"} {
		f.Add(text)
	}
	path := filepath.Join(f.TempDir(), "map")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ids, err := nestedMap(path)
		if err != nil {
			return
		}
		if n := strings.Count(strings.TrimSuffix(text, "\n"), "\n") + 1; len(ids) > n {
			t.Errorf("%q has %d pieces", text, len(ids))
		}
		for _, m := range ids {
			if m.ContainerID != m.HostID || m.ContainerID < 0 || m.Size <= 0 || m.ContainerID+m.Size > 1<<32 {
				t.Errorf("%q: %+v", text, m)
			}
		}
	})
}
