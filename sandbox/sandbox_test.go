package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"github.com/ossify/ossify/test/namespace"
)

func TestMain(m *testing.M) { namespace.Main(m, func() error { return nil }) }

// host is a store with the host as build root.
type host struct {
	t          *testing.T
	store      *store.Store
	containers *sandbox.Containers
	root       *sandbox.BuildRoot
	layer      *overlay.Stack
	libdir     string
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := store.Open(filepath.Join(dir, "store"), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	h := &host{t: t, store: s, root: &sandbox.BuildRoot{Tree: "/"}, libdir: filepath.Join(dir, "lib")}
	if err := os.Mkdir(h.libdir, 0o755); err != nil {
		t.Fatal(err)
	}
	memory, err := s.Memory("containers-")
	if err != nil {
		t.Fatal(err)
	}
	if h.containers, err = sandbox.NewContainers(memory); err != nil {
		t.Fatal(err)
	}
	runner := h.script("runner", `echo set up > /etc/marker; exec "$@"`)
	layer, err := s.Create(nil, "root", store.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	stack, err := s.Writable(layer)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := h.containers.PrepareRoot(context.Background(), h.scratch(), h.root, stack, &sandbox.Runner{Program: runner, Libdir: h.libdir}, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if err := s.Commit(layer, "root", nil, nil); err != nil {
		t.Fatal(err)
	}
	if h.layer, err = s.ReadOnly(layer); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) scratch() string {
	h.t.Helper()
	dir, _, err := h.store.Scratch("test-")
	if err != nil {
		h.t.Fatal(err)
	}
	return dir
}

func (h *host) script(name, text string) string {
	h.t.Helper()
	path := filepath.Join(h.libdir, name)
	if err := os.WriteFile(path, []byte("#!/bin/bash\n"+text+"\n"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// stage runs a shell script as a stage on an empty tree.
func (h *host) stage(ctx context.Context, script string, change func(*sandbox.Stage)) (*sandbox.StageResult, string, error) {
	h.t.Helper()
	layer, err := h.store.Create(nil, "stage", store.Origin{})
	if err != nil {
		h.t.Fatal(err)
	}
	tree, err := h.store.Writable(layer)
	if err != nil {
		h.t.Fatal(err)
	}
	s := &sandbox.Stage{Name: "org.test.stage", Class: "Stage", Libdir: h.libdir, Program: h.script("org.test.stage", script)}
	if change != nil {
		change(s)
	}
	var out bytes.Buffer
	prepared, err := h.containers.PrepareStage(h.scratch(), h.root, h.layer, s, &out)
	if err != nil {
		return nil, "", err
	}
	res, err := prepared.Run(ctx, &sandbox.StageContent{Tree: tree, Arguments: func(sandbox.Places) ([]byte, []sandbox.Op, error) { return []byte(`{"options": {}}`), nil, nil }, Inputs: h.scratch()})
	return res, out.String(), errors.Join(err, prepared.Close())
}

// TestStage runs scripts that must succeed, or fail in a certain way.
func TestStage(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct {
		name, script string
		status       int
		output       string
	}{
		{"tree is writable", `cd /run/osbuild/tree && touch a && chown 7:8 a && stat -c %u:%g a`, 0, "7:8"},
		{"arguments", `cat /run/osbuild/api/arguments`, 0, `{"options": {}}`},
		{"runner's set-up is there", `cat /etc/marker`, 0, "set up"},
		{"setup marker can be changed for this stage only", `echo x > /etc/marker; cat /etc/marker`, 0, "x"},
		{"and is back for the next", `cat /etc/marker`, 0, "set up"},
		{"exit status", `exit 17`, 17, ""},
		{"signal", `bash -c 'kill -KILL $$'; exit $?`, 137, ""},
		{"usr is read-only", `touch /usr/x`, 1, "Read-only file system"},
		{"usr cannot be made writable", `mount -o remount,bind,rw /usr`, 32, ""},
		{"usr cannot be taken away", `umount /usr`, 32, ""},
		{"usr cannot be taken away in a nested namespace", `unshare -Urm umount /usr`, 32, ""},
		{"the host's command line is not shown", `cat /proc/cmdline`, 0, "root=/dev/osbuild"},
		{"sys is read-only", `touch /sys/kernel`, 1, "Read-only file system"},
		{"sys of the host is out of reach", `mkdir /tmp/s && mount -t sysfs sysfs /tmp/s &&
			find /tmp/s -path '*/net/*' -prune -o -writable ! -type l -print | grep -c .`, 1, "0"},
		{"no other network than its own", `ls /sys/class/net >&-; cat /proc/net/dev | tail -n +3 | grep -vc lo:`, 1, "0"},
		{"the loopback interface is up", `exec 3<>/dev/tcp/127.0.0.1/9`, 1, "refused"},
		{"only its own processes", `ls -d /proc/[0-9]* | wc -l | grep -qx '[1-6]'`, 0, ""},
		{"a fresh proc can be mounted", `mkdir /tmp/p && mount -t proc proc /tmp/p && test -e /tmp/p/1/status`, 0, ""},
		{"a tree can have proc, dev and sys", `cd /run/osbuild/tree && mkdir proc dev sys &&
			mount -t proc -o nosuid,noexec,nodev proc proc && mount --bind /dev dev && mount -t sysfs -o nosuid,noexec,nodev sysfs sys &&
			test -e proc/1/status && test -d sys/kernel && echo x > dev/null && umount --lazy proc dev sys`, 0, ""},
		{"a tree can have them read-only", `cd /run/osbuild/tree && mkdir proc dev sys &&
			for d in proc dev sys; do mount --make-private -o rbind,ro /$d $d || exit; touch $d/x && exit; done; echo x > dev/null`, 0, ""},
		{"links in dev are the stage's to make", `ln -s /proc/self/fd /dev/fd && echo 4 | wc -c < /dev/fd/0`, 0, "2"},
		{"what is in dev is not the next stage's", `ls /dev/fd`, 2, ""},
		{"the engine's files are not there", `test -e /home || test -e /root/.ssh`, 1, ""},
		{"sysctls of the host are out of reach", `cat /proc/sys/kernel/printk > /proc/sys/kernel/printk`, 1, "Permission denied"},
		{"devices work", `echo x > /dev/null && head -c 4 /dev/zero | wc -c`, 0, "4"},
		{"no device nodes", `mknod /run/osbuild/tree/sda b 8 0`, 1, ""},
		{"descriptors", `ls /proc/$$/fd | tr '\n' ' '`, 0, "0 1 2 255 "},
		{"libdir is read-only", `touch /run/osbuild/lib/x`, 1, "Read-only file system"},
		{"inputs are read-only", `touch /run/osbuild/inputs/x`, 1, "Read-only file system"},
		{"inputs cannot be made writable", `mount -o remount,bind,rw /run/osbuild/inputs`, 32, ""},
		{"nothing is below inputs", `umount /run/osbuild/inputs && ls -A /run/osbuild/inputs | wc -l`, 0, "0"},
		{"no new privileges", `grep -q 'NoNewPrivs:.1' /proc/self/status`, 0, ""},
		{"capabilities are the namespace's", `grep CapEff /proc/self/status`, 0, "00000001a9a447df"},
		{"containers can be stored", `[ "$(stat -f -c %T /var/lib/containers)" != overlayfs ] && cd /var/lib/containers && mkdir l u w m &&
			mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w,userxattr m && echo x > m/x`, 0, ""},
		{"temporary directories", `echo 1 > /tmp/x && echo 1 > /var/tmp/x && echo 1 > /run/x && echo 1 > /dev/shm/x`, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			res, out, err := h.stage(context.Background(), c.script, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.Status != c.status || !strings.Contains(out, c.output) {
				t.Errorf("status %d, want %d; output:\n%s", res.Status, c.status, out)
			}
		})
	}
}

func TestStageReports(t *testing.T) {
	h := newHost(t)
	python := `exec python3 - <<'PY'
import json, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect("/run/osbuild/api/osbuild")
s.send(json.dumps({"method": "exception", "exception": {"type": "ValueError", "value": "no luck", "traceback": "t"}}).encode())
open("/run/osbuild/meta", "w").write('{"a": 1}')
raise SystemExit(3)
PY`
	res, out, err := h.stage(context.Background(), python, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if res.Status != 3 || res.Error == nil || res.Error.Value != "no luck" || string(res.Metadata) != `{"a": 1}` {
		t.Errorf("got %+v, error %+v", res, res.Error)
	}
}

func TestForgedMetadata(t *testing.T) {
	h := newHost(t)
	secret := filepath.Join(h.libdir, "meta")
	if err := os.WriteFile(secret, []byte(`"secret"`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ script, want string }{
		{`echo '{' > /run/osbuild/meta`, "is not JSON"},
		{`head -c 20000000 /dev/zero > /run/osbuild/meta`, "more than 16777216 bytes"},
		{`truncate -s 1T /run/osbuild/meta`, "more than 16777216 bytes"},
		{`rm /run/osbuild/meta; ln -s /etc/passwd /run/osbuild/meta`, "no regular file"},
		{`rm /run/osbuild/meta; mkdir /run/osbuild/meta`, "no regular file"},
		{`rm /run/osbuild/meta; mkfifo /run/osbuild/meta`, "no regular file"}, // and nobody writes to it
		{`rm /run/osbuild/meta; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("/run/osbuild/meta")'`, "no regular file"},
	} {
		if res, out, err := h.stage(context.Background(), c.script, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %+v, want %q\n%s", c.script, err, res, c.want, out)
		}
		// What failed anyway fails for its own reason.
		if res, _, err := h.stage(context.Background(), c.script+"; exit 5", nil); err != nil || res.Status != 5 {
			t.Errorf("%s: failed with %v, %+v, want status 5", c.script, err, res)
		}
	}
	// A link does not lead out of the container.
	script := `mv /run/osbuild /run/away && ln -s ` + filepath.Dir(secret) + ` /run/osbuild && ls -ld /run/osbuild`
	res, out, err := h.stage(context.Background(), script, nil)
	if err != nil || res.Status != 0 || res.Metadata != nil {
		t.Errorf("got %v, %+v\n%s", err, res, out)
	}
	if _, _, err := h.stage(context.Background(), `rm /run/osbuild/meta`, nil); err != nil {
		t.Errorf("removed: %v", err)
	}
}

func TestCancel(t *testing.T) {
	h := newHost(t)
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(context.Background(), 200*time.Millisecond, enough)
	defer cancel()
	if _, _, err := h.stage(ctx, `sleep 1000 & sleep 1000`, nil); !errors.Is(err, enough) {
		t.Errorf("cancelled stage: %v", err)
	}
}

// TestLimitsAlone has the kernel's limit without the engine's look, and too much output.
func TestLimitsAlone(t *testing.T) {
	h := newHost(t)
	h.containers.Limits = sandbox.Limits{Output: 1 << 20}
	if _, out, err := h.stage(context.Background(), `exec cat /dev/zero`, nil); err == nil || err.Error() != "it has printed more than 1 MiB" || len(out) > 1<<20 {
		t.Errorf("output: %v, %d bytes", err, len(out))
	}
	h.containers.Limits = sandbox.Limits{Processes: 10}
	res, out, err := h.stage(context.Background(), `ulimit -u; for i in 1 2 3 4 5 6 7 8; do sleep 60 & sleep 60 & done; wait`, nil)
	if err == nil || err.Error() != "it has more than 10 processes and threads (--stage-pids)" {
		t.Errorf("processes: %v, %+v\n%s", err, res, out)
	}
	if !strings.HasPrefix(out, "522\n") {
		t.Errorf("ulimit -u: %q", out)
	}
}

// TestNothingLeft sees that no mount of a stage outlives it.
func TestNothingLeft(t *testing.T) {
	h := newHost(t)
	before := mounts(t)
	for range 3 {
		if _, out, err := h.stage(context.Background(), `mount -t tmpfs x /tmp; true`, nil); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
