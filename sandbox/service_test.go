package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ossify/ossify/sandbox"
)

// service starts a Python program as a host service. It has the socket as s, and
// call() waits for a call; reply is what it can answer.
func service(t *testing.T, ctx context.Context, program string) *sandbox.Service {
	t.Helper()
	path := filepath.Join(t.TempDir(), "org.test.service")
	text := `#!/usr/bin/python3
import json, os, signal, socket, subprocess, sys, time
s = socket.socket(fileno=3)
reply = b'{"type": "reply", "data": {"reply": "good"}}'
def call():
    return s.recv(100000)
` + program
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := sandbox.StartService(ctx, path, "/", filepath.Dir(path), "test")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// descriptors counts those of this process that are sockets, pipes or of the
// tests; the runtime has others of its own.
func descriptors(t *testing.T) int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && !strings.HasPrefix(to, "anon_inode:[event") {
			n++
		}
	}
	return n
}

// running says whether a process has the word on its command line.
func running(word string) bool {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), word) {
			return true
		}
	}
	return false
}

// TestServiceDescriptors: whatever a service sends, all of it is closed.
func TestServiceDescriptors(t *testing.T) {
	for _, program := range []string{
		"call(); socket.send_fds(s, [reply], [0]); call()",
		"call(); socket.send_fds(s, [reply], [0] * 253); call()",
		"call(); socket.send_fds(s, [b'{\"type\": \"signal\", \"data\": {\"reply\": 1}}'], [0] * 253); s.send(reply); call()",
		"call(); socket.send_fds(s, [b'garbage'], [0] * 253); call()",
		"call(); socket.send_fds(s, [b'<args-via-fd>'], [0] * 253); call()",
		"call(); s.send(reply)\ntry:\n  for i in range(5): socket.send_fds(s, [b'never read'], [0, 1, 2, 3] * 60)\n  call()\nexcept OSError: pass",
		"call(); a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [a.fileno(), 1]); socket.send_fds(s, [reply], [b.fileno()]); call()",
	} {
		before := descriptors(t)
		for range 3 {
			s := service(t, t.Context(), program)
			var got string
			err := s.Call("test", nil, &got, nil)
			if closeErr := s.Close(); closeErr != nil {
				t.Errorf("%s: %v", program, closeErr)
			}
			if got != "good" && err == nil {
				t.Errorf("%s: got %q", program, got)
			}
		}
		if after := descriptors(t); after > before {
			t.Errorf("%s: %d descriptors before, %d after", program, before, after)
		}
	}
}

// TestServiceEnds: with a service all of its processes end.
func TestServiceEnds(t *testing.T) {
	const word = "81818.1"
	daemon := "subprocess.Popen(['sleep', '" + word + "'], start_new_session=True, pass_fds=[3])\n"
	for _, c := range []struct{ name, program, callErr, closeErr string }{
		{"as it should", "call(); s.send(reply); call()", "", ""},
		{"leaves a daemon", daemon + "call(); s.send(reply); call()", "", ""},
		{"leaves a daemon and dies", daemon + "call(); sys.exit(7)", "ended without a reply (exit status 7)", ""},
		{"closes and goes on", "call(); s.close(); print('busy', flush=True); time.sleep(1000)", "closed its connection without a reply", ""},
		{"before it is called", "sys.exit('no')", "ended without a reply (exit status 1)", ""},
		{"goes on", daemon + "call(); s.send(reply)\nwhile True: time.sleep(1000)", "", "did not end within 300ms"},
		{"stops itself", "call(); s.send(reply); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)", "", "did not end within 300ms"},
		{"fails in the end", "call(); s.send(reply); call(); print('oh'); sys.exit(3)", "", "did its work but ended badly (exit status 3)"},
		{"fails in a call and in the end", "call(); s.send(b'{}'); call(); sys.exit(3)", "the message has no type", ""},
	} {
		s := service(t, t.Context(), c.program)
		s.Grace = 300 * time.Millisecond
		if strings.HasSuffix(c.program, "sys.exit(3)") {
			s.Grace = time.Minute
		}
		if err := s.Call("test", nil, nil, nil); (err == nil) != (c.callErr == "") || err != nil && !strings.Contains(err.Error(), c.callErr) {
			t.Errorf("%s: call: got %v, want %q", c.name, err, c.callErr)
		}
		if err := s.Close(); (err == nil) != (c.closeErr == "") || err != nil && !strings.Contains(err.Error(), c.closeErr) {
			t.Errorf("%s: close: got %v, want %q", c.name, err, c.closeErr)
		}
		if running(word) {
			t.Errorf("%s: a process is left", c.name)
		}
	}
}

// TestServiceCancel ends services at all moments; the cause is what is told.
func TestServiceCancel(t *testing.T) {
	enough := errors.New("enough")
	before := descriptors(t)
	for _, program := range []string{
		"call(); time.sleep(1000)",
		"while True: s.send(b'{\"type\": \"signal\", \"data\": {\"reply\": 1}}')",
		"s.close(); time.sleep(1000)",
		"call(); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(1000)",
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := service(t, ctx, program)
		time.AfterFunc(100*time.Millisecond, func() { cancel(enough) })
		signals := 0
		if err := s.Call("test", nil, nil, func(json.RawMessage) { signals++ }); !errors.Is(err, enough) {
			t.Errorf("%s: call: %v", program, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: close: %v", program, err)
		}
		if _, err := sandbox.StartService(ctx, "/no/such/program", "/", "/", "x"); !errors.Is(err, enough) {
			t.Errorf("started: %v", err)
		}
	}
	// While it is closed: it did not end by itself.
	ctx, cancel := context.WithCancelCause(t.Context())
	s := service(t, ctx, "call(); s.send(reply); time.sleep(1000)")
	if err := s.Call("test", nil, nil, nil); err != nil {
		t.Error(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { cancel(enough) })
	if err := s.Close(); !errors.Is(err, enough) {
		t.Errorf("close: %v", err)
	}
	// Just when it ends.
	for range 20 {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := service(t, ctx, "")
		go cancel(enough)
		if err := s.Close(); err != nil && !errors.Is(err, enough) {
			t.Errorf("close at once: %v", err)
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestStageDescriptors: what stages send to the API's sockets is closed.
func TestStageDescriptors(t *testing.T) {
	h := newHost(t)
	before := descriptors(t)
	res, out, err := h.stage(t.Context(), `exec python3 - <<'PY'
import socket
for name in ["osbuild", "remoteloop"] * 10:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect("/run/osbuild/api/" + name)
    for text in [b'{}', b'garbage', b'<args-via-fd>', b'{"method": "exception", "exception": {}}']:
        try:
            socket.send_fds(s, [text], [0] * 253)
        except (BrokenPipeError, ConnectionResetError):
            pass
    s.detach()
PY`, nil)
	if err != nil || res.Status != 0 {
		t.Fatalf("%+v, %v\n%s", res, err, out)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestPrepareFails: a container that cannot be made leaves nothing.
func TestPrepareFails(t *testing.T) {
	h := newHost(t)
	files, before := descriptors(t), mounts(t)
	for range 5 {
		_, _, err := h.stage(t.Context(), "true", func(s *sandbox.Stage) { s.Program = "/no/such/program" })
		if err == nil || !strings.Contains(err.Error(), "/run/osbuild/bin/org.test.stage") {
			t.Errorf("no program: %v", err)
		}
		_, _, err = h.stage(t.Context(), "true", func(s *sandbox.Stage) { s.Libdir = "/no/such/libdir" })
		if err == nil || !strings.Contains(err.Error(), "/run/osbuild/lib") {
			t.Errorf("no libdir: %v", err)
		}
		// The container is made, and not used.
		prepared, err := h.containers.PrepareStage(h.scratch(), h.root, h.layer, &sandbox.Stage{
			Name: "org.test.stage", Class: "Stage", Program: h.script("org.test.stage", "true"), Libdir: h.libdir,
		}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if err := prepared.Close(); err != nil {
			t.Error(err)
		}
		if err := prepared.Close(); err != nil {
			t.Errorf("closed again: %v", err)
		}
	}
	if after := descriptors(t); after > files {
		t.Errorf("%d descriptors before, %d after", files, after)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
}
