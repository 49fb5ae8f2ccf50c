package sandbox_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ossify/ossify/sandbox"
)

// confined runs a Python program as a confined service, which says what it found.
func confined(t *testing.T, dir, program string, c *sandbox.Confinement) (string, error) {
	t.Helper()
	lib := filepath.Join(dir, "lib")
	if err := os.MkdirAll(filepath.Join(lib, "sources"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := `#!/usr/bin/python3
import json, os, socket, sys
s = socket.socket(fileno=3)
s.recv(100000)
` + program + `
s.send(json.dumps({"type": "reply", "data": {"reply": found}}).encode())
s.recv(1)
`
	// As in a libdir of links.
	file := filepath.Join(dir, "elsewhere", "program")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o755)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(lib, "sources", "org.test.source")
	if err := os.Symlink(file, path); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	c.Dir = t.TempDir()
	s, err := sandbox.StartConfined(t.Context(), path, lib, "/tmp", "test", c)
	if err != nil {
		return "", err
	}
	var found string
	err = s.Call("test", nil, &found, nil)
	return found, errors.Join(err, s.Close())
}

func TestConfined(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{"shown/file": "shown", "shown/other": "other", "one": "one", "two": "two", "own/file": "before"} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("https_proxy", "http://proxy.test:1")
	t.Setenv("SSL_CERT_FILE", filepath.Join(dir, "one"))
	t.Setenv("SECRET", "x")
	show := func(path string) sandbox.Bind {
		return sandbox.Bind{Source: filepath.Join(dir, path), Target: filepath.Join(dir, path)}
	}
	c := &sandbox.Confinement{
		Show:         []sandbox.Bind{show("shown"), show("shown/file"), show("missing"), {Source: "/usr/bin/env", Target: "/usr/bin/env"}},
		Own:          []string{filepath.Join(dir, "own")},
		Files:        []sandbox.File{{Target: "/run/made", Content: []byte("made"), Mode: 0o600}},
		Env:          []string{"GIVEN=1"},
		Capabilities: []string{"CAP_CHOWN"},
	}
	found, err := confined(t, dir, `
dir = "`+dir+`"
os.environ["PYTHONPATH"] == dir + "/lib" or sys.exit("PYTHONPATH")
for path in "/shown/file", "/shown/other", "/one", "/elsewhere/program":
    open(dir + path).read() or sys.exit(path)
    try: open(dir + path, "a"); sys.exit("wrote " + path)
    except OSError: pass
open(dir + "/own/file", "w").write("after")
open("/run/made").read() == "made" or sys.exit("/run/made")
open("/tmp/x", "w"); open("/var/tmp/x", "w"); open("/dev/null", "w"); open("/dev/shm/x", "w")
status = open("/proc/self/status").read()
found = json.dumps({
    "tree": sorted(os.listdir(dir)), "env": sorted(set(os.environ) & {"GIVEN", "SECRET", "https_proxy", "SSL_CERT_FILE", "HOME"}),
    "cap": [l.split()[1] for l in status.splitlines() if l.startswith("CapEff")], "fds": len(os.listdir("/proc/self/fd"))})
`, c)
	// The last descriptor is that of the list itself.
	want := `{"tree": ["elsewhere", "lib", "one", "own", "shown"], "env": ["GIVEN", "HOME", "SSL_CERT_FILE", "https_proxy"], "cap": ["0000000000000001"], "fds": 5}`
	if err != nil || found != want {
		t.Errorf("got %s, %v\nwant %s", found, err, want)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "own/file")); err != nil || string(data) != "after" {
		t.Errorf("its own file: %q, %v", data, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), c.Dir) {
		t.Errorf("mounts are left: %v\n%s", err, mounts)
	}
}

// TestConfinedErrors: a service that cannot be started is an error that says why.
func TestConfinedErrors(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]struct {
		mode fs.FileMode
		err  error
		word string
	}{
		"#!/bin/sh\n":      {0o644, syscall.EACCES, "chmod a+x"},
		"#!/no/such/one\n": {0o755, syscall.ENOENT, "interpreter"},
		"text\n":           {0o755, syscall.ENOEXEC, "begins with #!"},
	} {
		path := filepath.Join(dir, "org.test.source")
		if err := errors.Join(os.WriteFile(path, []byte(text), want.mode), os.Chmod(path, want.mode)); err != nil {
			t.Fatal(err)
		}
		_, err := sandbox.StartConfined(t.Context(), path, dir, "/tmp", "test", &sandbox.Confinement{Dir: t.TempDir()})
		if !errors.Is(err, want.err) || !strings.Contains(err.Error(), want.word) || !strings.HasPrefix(err.Error(), "start org.test.source: ") {
			t.Errorf("got %v, want %v with %q", err, want.err, want.word)
		}
	}
	if _, err := sandbox.StartConfined(t.Context(), "/usr/bin/true", "", "/no/such/dir", "test", &sandbox.Confinement{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "confine it") {
		t.Errorf("got %v, want an error about the working directory", err)
	}
}

// BenchmarkStart starts and ends a service that does nothing, as an input and as a source.
func BenchmarkStart(b *testing.B) {
	b.Run("service", func(b *testing.B) {
		for b.Loop() {
			s, err := sandbox.StartService(b.Context(), "/usr/bin/true", "/usr", "/tmp", "test")
			if err == nil {
				err = s.Close()
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("confined", func(b *testing.B) {
		for b.Loop() {
			c := &sandbox.Confinement{Dir: b.TempDir()}
			s, err := sandbox.StartConfined(b.Context(), "/usr/bin/true", "/usr", "/tmp", "test", c)
			if err == nil {
				err = s.Close()
			}
			if err = errors.Join(err, os.RemoveAll(filepath.Join(c.Dir, "root")), os.RemoveAll(filepath.Join(c.Dir, "tmp"))); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestTool: a program such as a package solver has the capabilities that it is given, and
// what is bound.
func TestTool(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("bound\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SECRET", "x")
	var out bytes.Buffer
	status, err := h.containers.RunTool(t.Context(), h.scratch(), h.root, []sandbox.Bind{{Source: dir, Target: dir}}, &sandbox.Command{
		Args: []string{"/usr/bin/sh", "-c", `grep -e CapEff -e CapBnd -e NoNewPrivs /proc/self/status; cat $0/file; find /home /root /srv /tmp /var -type f ! -path "$0/*" 2>/dev/null; echo "$SECRET"; mount -t tmpfs x /tmp 2>/dev/null || echo cannot mount`, dir},
		Env:  []string{"LC_ALL=C"}, Network: true, Capabilities: []string{"CAP_CHOWN", "CAP_KILL"}, Stdout: &out, Stderr: &out,
	})
	want := "CapEff:\t0000000000000021\nCapBnd:\t0000000000000021\nNoNewPrivs:\t1\nbound\n\ncannot mount\n"
	if err != nil || status != 0 || out.String() != want {
		t.Errorf("status %d, %v:\n%s", status, err, out.String())
	}
}
