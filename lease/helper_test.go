package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

func addressOf(data *[32]byte) uintptr { return uintptr(unsafe.Pointer(data)) }

// TestStart is attempt 23: how the helper is started has no effect.
func TestStart(t *testing.T) {
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("23 hostile start", func(t *testing.T) {
		h := newStoppedHelper(t)
		evil := filepath.Join(h.dir, "evil")
		if err := os.WriteFile(evil, []byte("#!/bin/sh\ntouch "+h.dir+"/happened\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		bin := filepath.Join(h.dir, "bin")
		if err := os.Mkdir(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"mkfs.ext4", "mke2fs"} {
			if err := os.Symlink("../evil", filepath.Join(bin, name)); err != nil {
				t.Fatal(err)
			}
		}
		const script = `umask 0; ulimit -S -n 24; ulimit -S -f 0; ulimit -S -s 256; ulimit -S -c unlimited
exec 9</etc/passwd "$@" 0<&- 1>&- 2>&-`
		h.run(h.command("env", "-i", "PATH="+bin+":/usr/bin", "LD_PRELOAD="+evil, "GLIBC_TUNABLES=glibc.malloc.check=3",
			"GODEBUG=gctrace=1,schedtrace=1", "GOMAXPROCS=1", "GOTRACEBACK=crash", "MKE2FS_CONFIG="+evil, "LISTEN_FDS=1", "LISTEN_PID=1", "TMPDIR=/evil",
			"bash", "-c", script, "sh", path, "--listen="+h.socket, "--staging="+filepath.Join(h.dir, "staging")))
		for _, pid := range []int{h.cmd.Process.Pid, h.broker()} {
			if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || len(data) > 0 {
				t.Errorf("environment of %d: %q, %v", pid, data, err)
			}
			limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
			if err != nil || !strings.Contains(string(limits), "Max file size             unlimited") || !strings.Contains(string(limits), "Max core file size        0 ") {
				t.Errorf("limits of %d:\n%s%v", pid, limits, err)
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil || !strings.Contains(string(status), "Umask:\t0077") || !strings.Contains(string(status), "NoNewPrivs:\t1") || !strings.Contains(string(status), "Seccomp:\t2") {
				t.Errorf("status of %d:\n%s%v", pid, status, err)
			}
			fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
			if err != nil {
				t.Fatal(err)
			}
			for _, fd := range fds {
				if to, _ := os.Readlink(fd); to == "/etc/passwd" {
					t.Errorf("%d has kept a descriptor", pid)
				}
			}
		}
		st, err := os.Stat(h.socket)
		if err != nil || st.Mode().Perm() != 0o660 || st.Sys().(*syscall.Stat_t).Gid != groupID || st.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("socket: %v, %v", st, err)
		}
		st, err = os.Stat(filepath.Join(h.dir, "staging"))
		if err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("staging directory: %v, %v", st, err)
		}
		h.as(alice, true, "busy")
		if _, err := os.Stat(filepath.Join(h.dir, "happened")); err == nil {
			t.Error("a program of the environment was run")
		}
	})
	t.Run("23 argc 0", func(t *testing.T) {
		needRoot(t)
		pid, err := syscall.ForkExec(path, []string{}, &syscall.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 1 {
			t.Errorf("exit status %d, %v", status.ExitStatus(), err)
		}
	})
	t.Run("rights", func(t *testing.T) {
		h := newHelper(t)
		for pid, want := range map[int]string{h.cmd.Process.Pid: "CapBnd:\t00000002802002ed", h.broker(): "CapBnd:\t0000000000000000"} {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil || !strings.Contains(string(status), want) {
				t.Errorf("want %s: %s", want, status)
			}
		}
		if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", h.broker())); err != nil || len(entries) > 0 {
			t.Errorf("the broker's root has %v, %v", entries, err)
		}
		out := run(t, "nsenter", "-n", "-t", strconv.Itoa(h.broker()), "ip", "-o", "link")
		if strings.Count(out, "\n") > 1 || strings.Contains(out, "UP") {
			t.Errorf("the broker's network is %s", out)
		}
	})
	t.Run("refusals", func(t *testing.T) {
		h := newStoppedHelper(t)
		open := filepath.Join(h.dir, "open")
		if err := errors.Join(os.Mkdir(open, 0o777), os.Chmod(open, 0o777|os.ModeSticky)); err != nil {
			t.Fatal(err)
		}
		loose := filepath.Join(h.dir, "loose")
		if err := errors.Join(os.Mkdir(loose, 0o755)); err != nil {
			t.Fatal(err)
		}
		staging := "--staging=" + filepath.Join(h.dir, "staging")
		for _, c := range []struct {
			want string
			args []string
		}{
			{"directory of root's that others cannot write to", []string{"--listen=" + filepath.Join(open, "socket"), staging}},
			{"directory of root's that others cannot write to", []string{"--listen=" + h.socket, "--staging=" + filepath.Join(open, "staging")}},
			{"only root can enter", []string{"--listen=" + h.socket, "--staging=" + loose}},
			{"must be an absolute path", []string{"--listen=" + h.socket, "--staging=staging"}},
			{"there is no group nogroup", []string{"--listen=" + h.socket, staging, "--group=nogroup"}},
			{"no socket was passed", []string{staging}},
			{"unknown argument", []string{"--listen=" + h.socket, "x"}},
			{"unknown command", []string{"frobnicate"}},
		} {
			out, err := h.command(path, c.args...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v: got %s, %v; want %q", c.args, out, err, c.want)
			}
		}
		cmd := exec.Command("/proc/self/fd/3", "--listen="+h.socket)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = []*os.File{f}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice.id, Gid: alice.id}}
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "only root can mount") {
			t.Errorf("as a user: %s, %v", out, err)
		}
		h.start()
		out, err := exec.Command(path, "--listen="+h.socket, staging).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "another ossify-loop listens") {
			t.Errorf("twice: %s, %v", out, err)
		}
	})
	t.Run("systemd", func(t *testing.T) {
		h := newStoppedHelper(t)
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		listener := os.NewFile(uintptr(fd), "listener")
		defer listener.Close()
		if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: h.socket}), unix.Listen(fd, 10), os.Chmod(h.socket, 0o660), os.Chown(h.socket, 0, groupID)); err != nil {
			t.Fatal(err)
		}
		cmd := h.command("sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"`, "sh", path, "--staging="+filepath.Join(h.dir, "staging"))
		cmd.ExtraFiles = []*os.File{listener}
		h.run(cmd)
		h.as(alice, true, "busy")
	})
}

// TestStatus looks at leases as their owner, as another user and as root.
func TestStatus(t *testing.T) {
	h := newHelper(t, "--quota=1073741824", "--leases=3")
	c := h.launch(alice, true, "work", "HOLD=1")
	if line := c.line(); line != "mounted" {
		t.Fatal(line)
	}
	status := h.status()
	if !strings.Contains(status, "alice") || !strings.Contains(status, "32.0 MiB") || !strings.Contains(status, "992.0 MiB") {
		t.Errorf("root sees\n%s", status)
	}
	c.next()
	c.end()
	for range 100 {
		if status = h.status(); !strings.Contains(status, "alice") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	log := h.log.String()
	for _, want := range []string{"lease 1 taken: user alice (61001), 33554432 bytes", "lease 1 dropped: user alice (61001)"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %q:\n%s", want, log)
		}
	}
}

// workClient works in a mounted filesystem.
func workClient() error {
	c, dir, err := mounted(wire.Ext4, MountOptions{})
	if err != nil {
		return err
	}
	if os.Getenv("HOLD") != "" {
		table, err := c.Status(context.Background())
		if err != nil {
			return err
		}
		if len(table.Leases) != 1 || table.Leases[0].User != me().name || table.Limit != 3 {
			return fmt.Errorf("status is %+v", table)
		}
		pause("mounted")
		return nil
	}
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 100000), 0o644); err != nil {
			return err
		}
	}
	ctx := context.Background()
	if err := errors.Join(c.Sync(ctx, 0), unmount(dir)); err != nil {
		return err
	}
	_, err = c.Export(ctx, 0)
	return err
}

// TestSubvolumes mounts several subvolumes of one filesystem at once.
func TestSubvolumes(t *testing.T) {
	h := newHelper(t)
	h.as(alice, true, "subvolumes")
}

func subvolumesClient() error {
	c, dir, err := mounted(wire.Btrfs, MountOptions{})
	if err != nil {
		return err
	}
	for _, name := range []string{"root", "home"} {
		if out, err := exec.Command("btrfs", "subvolume", "create", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	for _, name := range []string{"root", "home"} {
		at := dir + "-" + name
		if err := mountAt(c, at, MountOptions{Subvolume: name, ReadOnly: name == "home"}); err != nil {
			return err
		}
		err := os.WriteFile(filepath.Join(at, "file"), []byte(name), 0o644)
		if name == "home" {
			err = want(unix.EROFS, err)
		}
		if err != nil {
			return err
		}
	}
	err = mountAt(c, dir+"-x", MountOptions{Subvolume: "no/such"})
	if err := want(unix.ENOENT, err); err != nil {
		return err
	}
	ctx := context.Background()
	if err := c.Sync(ctx, 0); err != nil {
		return err
	}
	for _, at := range []string{dir, dir + "-root", dir + "-home"} {
		if err := unmount(at); err != nil {
			return err
		}
	}
	if err := c.Label(ctx, 0, []wire.Entry{{Path: "root/file", SELinux: "a:b:c:d", Flags: wire.Immutable}}); err != nil {
		return err
	}
	_, err = c.Export(ctx, 0)
	return err
}

// TestKills takes leases and ends clients, the mounter and the broker at any moment.
// OSSIFY_LEASE_ROUNDS are more rounds than 200.
func TestKills(t *testing.T) {
	rounds := 200
	if n, err := strconv.Atoi(os.Getenv("OSSIFY_LEASE_ROUNDS")); err == nil {
		rounds = n
	}
	if testing.Short() {
		rounds = 20
	}
	h := newHelper(t)
	before := machine(t)
	killed := map[string]int{}
	for range rounds {
		kind := []string{"client", "client", "client", "helper", "broker", "nothing", "terminate"}[rand.IntN(7)]
		killed[kind]++
		var running []*client
		for _, u := range []user{alice, bob} {
			running = append(running, h.launch(u, true, "work"))
		}
		time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)
		switch kind {
		case "client":
			for _, c := range running {
				c.cmd.Process.Kill()
			}
		case "helper":
			h.cmd.Process.Kill()
		case "terminate":
			h.cmd.Process.Signal(unix.SIGTERM)
		case "broker":
			unix.Kill(h.broker(), unix.SIGKILL)
		}
		for _, c := range running {
			c.cmd.Wait()
		}
		if kind == "helper" || kind == "broker" || kind == "terminate" {
			done := make(chan error, 1)
			go func() { done <- h.cmd.Wait() }()
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Fatalf("the mounter does not end after the end of the %s", kind)
			}
			h.start()
		}
	}
	for range 200 {
		if !strings.Contains(h.status(), "MiB  ") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if status := h.status(); strings.Contains(status, "MiB  ") {
		t.Errorf("leases are left:\n%s", status)
	}
	h.same(before)
	text, _ := json.Marshal(killed)
	t.Logf("%d rounds: %s", rounds, text)
}
