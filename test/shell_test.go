package test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ossify/ossify/test/pty"
	"golang.org/x/sys/unix"
)

const shellManifest = `{"version": "2", "pipelines": [{"name": "tree", "stages": [
  {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/etc"}]}},
  {"type": "org.osbuild.hostname", "options": {"hostname": "first"}}]}]}`

// shellHere returns a store in which a manifest was built, and a shell on it that is
// not started, in the sandbox of its last stage.
func shellHere(t *testing.T, command ...string) (store string, shell *exec.Cmd) {
	t.Helper()
	dir := workDir(t)
	store = filepath.Join(dir, "store")
	manifest := filepath.Join(dir, "m.json")
	if err := os.WriteFile(manifest, []byte(shellManifest), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program(t), "--quiet", "--store", store, manifest).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return store, exec.Command(program(t), append([]string{"shell", "--store", store, manifest, "org.osbuild.hostname@after"}, command...)...)
}

// output is what a program has printed so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// until waits for text in it, whatever ends its lines.
func (o *output) until(t *testing.T, text string) {
	t.Helper()
	for range 2000 {
		if strings.Contains(strings.ReplaceAll(o.String(), "\r", ""), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no %q in %q", text, o)
}

// TestShellEnds ends a command in a sandbox with each signal: nothing of it is left.
func TestShellEnds(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGKILL} {
		t.Run(unix.SignalName(signal), func(t *testing.T) {
			argument := "65432." + strconv.Itoa(os.Getpid())
			store, shell := shellHere(t, "--", "sh", "-c", "touch /run/osbuild/tree/new; sleep "+argument+" & echo ready; wait")
			var out output
			shell.Stdout, shell.Stderr = &out, &out
			if err := shell.Start(); err != nil {
				t.Fatal(err)
			}
			out.until(t, "ready")
			_ = shell.Process.Signal(signal)
			err := shell.Wait()
			want := 130
			if signal == syscall.SIGKILL {
				want = -1
			}
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != want {
				t.Errorf("%v, want status %d\n%s", err, want, &out)
			}
			waitGone(t, store)
			if found := processes(argument); len(found) > 0 {
				t.Errorf("still running: %q", found)
			}
			if signal == syscall.SIGKILL { // the next engine cleans up
				if out, err := exec.Command(program(t), "store", "ls", "--store", store).CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			}
			left(t, store)
		})
	}
}

// TestShellTerminal works at a shell's terminal, and then closes that.
func TestShellTerminal(t *testing.T) {
	store, shell := shellHere(t)
	opened, slave := pty.Open(t)
	// A blocking read would keep it open.
	fd, err := unix.FcntlInt(opened.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.SetNonblock(fd, true), opened.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "terminal")
	shell.Stdin, shell.Stdout, shell.Stderr = slave, slave, slave
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shell.Process.Kill() })
	_ = slave.Close()
	var out output
	go func() { _, _ = io.Copy(&out, master) }()
	out.until(t, "ossify: /run/osbuild/tree is the tree as org.osbuild.hostname of pipeline tree left it; changes are thrown away")
	out.until(t, "[osbuild] / # ")
	for _, step := range []struct{ keys, want string }{
		{"cat /run/osbuild/tree/etc/hostname\n", "first\n"},
		{"tty; stty size\n", "/run/osbuild/tty\n24 100\n"},
		{"sleep 1000\n", "sleep 1000"},
		{"\x03echo status $?\n", "status 130\n"}, // Ctrl-C is for what runs in the shell
		{"rm -r /run/osbuild/tree/etc; echo left: $(ls -A /run/osbuild/tree | wc -l)\n", "left: 0\n"},
	} {
		if _, err := master.WriteString(step.keys); err != nil {
			t.Fatal(err)
		}
		out.until(t, step.want)
	}
	if err := master.Close(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- shell.Wait() }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a shell whose terminal was closed has succeeded")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the shell goes on without its terminal")
	}
	waitGone(t, store)
	left(t, store)
	cat := exec.Command(program(t), "shell", "--store", store, "org.osbuild.hostname@after", "--", "cat", "/run/osbuild/tree/etc/hostname")
	if got, err := cat.CombinedOutput(); err != nil || string(got) != "first\n" {
		t.Errorf("%v\n%s", err, got)
	}
}
