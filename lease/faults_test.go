package lease

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestFaults lets system calls of the mounter and its children fail. A client gets an error
// that says so, or does not notice; the helper lives, and serves the next one. Closing and
// lazy unmounting, which the kernel does even if it returns an error, are left out.
func TestFaults(t *testing.T) {
	h := newHelper(t)
	before := h.descriptors()
	failed := 0
	for _, call := range []string{
		"openat", "fallocate", "fchown", "fchmod", "fsync", "syncfs", "ioctl", "fcntl", "fsopen", "fsconfig", "fsmount",
		"move_mount", "mount_setattr", "open_tree", "unshare", "socketpair", "wait4", "pwrite64",
	} {
		for _, errno := range []string{"EIO", "ENOSPC", "EINTR"} {
			t.Run(call+" "+errno, func(t *testing.T) {
				h.t = t
				for _, when := range []string{"1", "2", "3+4"} {
					if !h.injected(call, errno, when) {
						failed++
					}
				}
				h.as(alice, true, "work")
			})
		}
	}
	h.t = t
	t.Logf("%d clients have got an error", failed)
	if failed == 0 {
		t.Error("no client has got an error")
	}
	h.idle(before)
}

// injected runs a client while the calls of the helper fail; it says whether the client has
// succeeded.
func (h *helper) injected(call, errno, when string) bool {
	h.t.Helper()
	tracer := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-p", fmt.Sprint(h.cmd.Process.Pid),
		"-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%s", call, errno, when))
	messages := &logBuffer{}
	tracer.Stderr = messages
	if err := tracer.Start(); err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		tracer.Process.Kill()
		tracer.Wait()
		if !h.alive() {
			h.t.Fatalf("the helper has ended, %v: %s %s", h.cmd.Wait(), h.log.end(), messages)
		}
	}()
	if !h.traced() {
		h.t.Fatalf("strace does not attach: %s", messages)
	}
	c := h.launch(alice, true, "work")
	done := make(chan error, 1)
	go func() { done <- c.cmd.Wait() }()
	select {
	case err := <-done:
		text := c.errors.String()
		if err != nil && !strings.Contains(text, "client:") {
			h.t.Errorf("the client says %q, %v", text, err)
		}
		return err == nil
	case <-time.After(30 * time.Second):
		c.cmd.Process.Kill()
		h.t.Errorf("the client waits: %s", h.log.end())
		return false
	}
}

// alive says whether the helper is no zombie.
func (h *helper) alive() bool {
	out, err := exec.Command("ps", "-o", "stat=", "-p", fmt.Sprint(h.cmd.Process.Pid)).Output()
	return err == nil && !strings.HasPrefix(string(out), "Z")
}

// traced waits until a tracer is attached.
func (h *helper) traced() bool {
	for range 200 {
		out, _ := exec.Command("sh", "-c", fmt.Sprintf("grep -L 'TracerPid:.0$' /proc/%d/task/*/status | wc -l; ls /proc/%[1]d/task | wc -l", h.cmd.Process.Pid)).Output()
		if n := strings.Fields(string(out)); len(n) == 2 && n[0] == n[1] {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}
