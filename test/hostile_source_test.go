package test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	hostileServices["snoops"] = snoop
	// With the capabilities of a source that opens a container storage.
	hostileServices["escapes"] = func(p *peer) {
		p.call()
		if !strings.Contains(string(must(os.ReadFile("/proc/self/status"))), "CapEff:\t0000000000200002") {
			fmt.Println("has other capabilities than it should")
			os.Exit(7)
		}
		if escape(false) > 0 || unix.Mknod("/tmp/null", unix.S_IFCHR|0o666, 0x103) == nil {
			os.Exit(8)
		}
		_ = p.send(p.good())
		p.end()
	}
}

// confinedVariables are all that a source may have in its environment here.
var confinedVariables = []string{"container", "LC_CTYPE", "PATH", "TERM", "HOME", "PYTHONPATH", "PYTHONUNBUFFERED",
	"no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"}

// snoop is a source that tries all that it must not be able to do, and what it must. The
// errors of its result are what went otherwise.
func snoop(p *peer) {
	p.call()
	var found []string
	report := func(format string, args ...any) { found = append(found, quoted(fmt.Sprintf(format, args...))) }
	token, store, home := setting("token"), setting("store"), setting("home")

	// Files of the user, the store and the machine.
	mine, _ := filepath.EvalSymlinks("/proc/self/exe")
	_ = filepath.WalkDir(home, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && path != mine {
			report("sees %s", path)
		}
		return nil
	})
	for _, path := range []string{setting("precious") + "/file", setting("named") + "/other", "/etc/shadow", "/etc/ssh", "/etc/subuid", "/etc/machine-id", "/var/log", "/var/lib/dpkg", "/sys/kernel", "/root", "/home/nobody", store + "/storage"} {
		if _, err := os.Lstat(path); err == nil {
			report("sees %s", path)
		}
	}
	if entries := must(os.ReadDir(store)); len(entries) != 1 || entries[0].Name() != "sources" {
		report("sees of the store %v", entries)
	}
	if data, err := os.ReadFile(setting("named") + "/file"); err != nil || string(data) != "named" {
		report("does not see what the manifest names: %v", err)
	}
	for _, dir := range []string{"/", "/etc", "/usr", "/usr/bin", "/usr/local", "/bin", "/dev", "/run", "/var", "/root", home, setting("precious"), filepath.Dir(os.Args[0])} {
		if f, err := os.Create(filepath.Join(dir, token)); err == nil {
			report("writes %s", f.Name())
			f.Close()
		}
	}
	if f, err := os.OpenFile(setting("named")+"/file", os.O_WRONLY, 0); err == nil {
		report("opens %s for writing", f.Name())
	}
	for _, path := range []string{"/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/oom_score_adj"} {
		if _, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			report("opens %s for writing", path)
		}
	}
	// The store of this test is below /var/tmp, of which it has one of its own.
	for _, dir := range []string{"/tmp", "/var/tmp", "/dev/shm", store, setting("named"), store + "/sources"} {
		if err := os.WriteFile(filepath.Join(dir, token), nil, 0o644); err != nil {
			report("cannot write: %v", err)
		}
	}

	// Other processes.
	pids, _ := filepath.Glob("/proc/[0-9]*")
	if os.Getpid() != 1 || os.Getppid() != 0 || len(pids) != 1 {
		report("is process %d of %v", os.Getpid(), pids)
	}
	for pid := 2; pid < 5000; pid++ {
		if err := unix.Kill(pid, 0); err != unix.ESRCH && unix.Tgkill(1, pid, 0) != nil { // its own threads have numbers, too
			report("signals %d: %v", pid, err)
		}
	}
	if _, err := net.Dial("unix", "@"+token); err == nil {
		report("connects to an abstract socket")
	}
	var ids [64]int32
	if n, _, errno := unix.Syscall(unix.SYS_SHMCTL, 0, 13, uintptr(unsafe.Pointer(&ids))); errno == 0 && n != 0 { // SHM_STAT
		report("sees shared memory")
	}

	// What it was started with.
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil || strings.HasPrefix(to, "anon_inode:[event") || slices.Contains([]string{"0", "1", "2", "3"}, filepath.Base(link)) {
			continue
		}
		report("has %s: %s", link, to)
	}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !slices.Contains(confinedVariables, name) {
			report("has the variable %s", v)
		}
	}
	status := string(must(os.ReadFile("/proc/self/status")))
	for _, want := range []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(status, want) {
			report("has not %q", want)
		}
	}

	// What takes capabilities.
	for name, act := range map[string]func() error{
		"mount":     func() error { return unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "") },
		"umount":    func() error { return unix.Unmount("/usr", unix.MNT_DETACH) },
		"mknod":     func() error { return unix.Mknod("/tmp/null", unix.S_IFCHR|0o666, 0x103) },
		"chroot":    func() error { return unix.Chroot("/tmp") },
		"chown":     func() error { return unix.Chown("/tmp/"+token, 1, 1) },
		"setgroups": func() error { return syscall.Setgroups([]int{1}) },
		"unshare":   func() error { return unix.Unshare(unix.CLONE_NEWNS) },
		"/dev/tty":  func() error { return unix.Access("/dev/tty", unix.R_OK) },
	} {
		if act() == nil {
			report("can %s", name)
		}
	}
	// And what a user namespace would lend it.
	cmd := exec.Command("/proc/self/exe", "nested")
	cmd.Args[0] = os.Args[0]
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		report("in a user namespace: %v: %s", err, out)
	}

	// Its work.
	if resp, err := http.Get(setting("server")); err != nil || resp.StatusCode != http.StatusOK {
		report("has no network: %v", err)
	}
	success := len(found) == 0
	var results []string
	for _, text := range found {
		results = append(results, `{"success": false, "error": `+text+`}`)
	}
	_ = p.send(fmt.Sprintf(`{"type": "reply", "data": {"reply": {"success": %v, "results": [%s]}}}`, success, strings.Join(results, ",")))
	p.end()
}

// escape tries to get at what is locked, as root of a user namespace, and returns how
// much of that it could. In one below that of the source, what was mounted there is locked
// as well.
func escape(below bool) (could int) {
	acts := []func() error{
		func() error { return unix.Unmount("/usr", unix.MNT_DETACH) },
		func() error { return unix.Unmount("/dev/null", unix.MNT_DETACH) },
		func() error {
			return unix.MountSetattr(unix.AT_FDCWD, "/usr", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID})
		},
		func() error {
			return unix.MountSetattr(unix.AT_FDCWD, setting("named")+"/file", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
		},
	}
	if below {
		acts = append(acts, func() error {
			return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
		}, func() error {
			return unix.MountSetattr(unix.AT_FDCWD, "/proc", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
		}, func() error { return unix.Unmount("/proc", unix.MNT_DETACH) })
	}
	for i, act := range acts {
		if act() == nil {
			fmt.Println("escape", i)
			could++
		}
	}
	return could
}

// TestHostileSource runs a source that looks for all that is not its own.
func TestHostileSource(t *testing.T) {
	h := newHostileLib(t)
	h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := os.CreateTemp(home, ".ossify-test-secret-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(secret.Name())
	defer secret.Close()
	token := filepath.Base(secret.Name())[1:]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer server.Close()
	abstract, err := net.Listen("unix", "@"+token)
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	for name, text := range map[string]string{"token": token, "home": home, "store": h.store, "server": server.URL, "named": filepath.Join(h.dir, "named")} {
		h.write("lib/"+name, text)
	}
	h.write("named/file", "named")
	h.write("named/other", "not named")
	for _, name := range []string{"OSSIFY_TEST_SECRET", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "REGISTRY_AUTH_FILE", "OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY"} {
		t.Setenv(name, secret.Name())
	}
	t.Setenv("no_proxy", "127.0.0.1")
	for kind, item := range map[string]string{
		"snoops":  `{"url": "file://` + h.dir + `/named/file"}`,
		"escapes": `{"url": "file://` + h.dir + `/named/file", "image": {"name": "x", "containers-transport": "containers-storage"}}`,
	} {
		text, err := os.ReadFile(h.manifest("source", kind))
		if err != nil {
			t.Fatal(err)
		}
		sum := `"sha256:` + strings.Repeat("0", 64) + `":`
		named := strings.Replace(string(text), sum+"{}", sum+item, 1)
		if named == string(text) {
			t.Fatal("the manifest has no item")
		}
		o := h.run(h.write("m.json", named), nil, "--json")
		if o.status != 0 {
			t.Errorf("%s: status %d\n%s\n%s", kind, o.status, strings.ReplaceAll(o.stdout, `{"error"`, "\n"+`{"error"`), o.stderr)
		}
	}
	for _, dir := range []string{"/tmp", "/var/tmp", "/dev/shm", home, h.store, h.dir} {
		if _, err := os.Lstat(filepath.Join(dir, token)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s/%s is there: %v", dir, token, err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(h.dir, "named/file")); err != nil || string(data) != "named" {
		t.Errorf("the named file has changed: %q, %v", data, err)
	}
}
