package test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// These tests try what must fail, from where whoever tries it would: a stage, a manifest, a
// server. The numbers are those of the list that they come from:
//
//	1-5, 8, 9, 11, 13, 14  TestAttempts, by testdata/attempts/stage.py
//	6                      TestAttemptsLinks
//	7                      sandbox: TestSwappedTargets
//	10, 12                 system calls that are filtered, and limits, are tested beside these
//	24                     TestAttemptsNames
//	25                     TestAttemptsDownloads
//	26                     TestAttemptsBombs

// newAttempts is a libdir for modules that a test writes, and a store.
func newAttempts(t *testing.T) *hostileLib {
	t.Helper()
	h := &hostileLib{t: t, dir: workDir(t)}
	h.store = filepath.Join(h.dir, "store")
	h.write("precious/file", "precious")
	h.write("lib/secret", filepath.Join(h.dir, "precious"))
	return h
}

// stage is a stage of a manifest.
type stage struct {
	Type    string         `json:"type"`
	Options map[string]any `json:"options,omitempty"`
	Inputs  map[string]any `json:"inputs,omitempty"`
	Mounts  []any          `json:"mounts,omitempty"`
}

// pipelines writes a manifest of pipelines, given as names and stages in turn. A name
// NAME/BUILD has a build pipeline.
func (h *hostileLib) pipelines(sources map[string]any, parts ...any) string {
	h.t.Helper()
	var all []any
	for i := 0; i < len(parts); i += 2 {
		name, build, ok := strings.Cut(parts[i].(string), "/")
		p := map[string]any{"name": name, "stages": parts[i+1]}
		if ok {
			p["build"] = "name:" + build
		}
		all = append(all, p)
	}
	m := map[string]any{"version": "2", "pipelines": all}
	if sources != nil {
		m["sources"] = sources
	}
	text, err := json.Marshal(m)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.write("m.json", string(text))
}

// treeOf is an input with the tree of a pipeline.
func treeOf(pipeline string) map[string]any {
	return map[string]any{"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": []string{"name:" + pipeline}}
}

// host is what of this machine a build must not change.
type host struct {
	files, settings, mounts map[string]string
	processes               map[string]bool
	descriptors             int
}

// ours says whether files and processes of a user id are those of the user who runs the
// test, or of the subordinate ids.
func ours(t *testing.T) func(uid uint32) bool {
	t.Helper()
	type span struct{ first, n uint64 }
	spans := []span{{uint64(os.Getuid()), 1}}
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	name := ""
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == strconv.Itoa(os.Getuid()) {
			name = f[0]
		}
	}
	for _, path := range []string{"/etc/subuid", "/etc/subgid"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) != 3 || f[0] != name {
				continue
			}
			first, err1 := strconv.ParseUint(f[1], 10, 32)
			n, err2 := strconv.ParseUint(f[2], 10, 32)
			if err1 == nil && err2 == nil {
				spans = append(spans, span{first, n})
			}
		}
	}
	if os.Getuid() == 0 { // stages of real root
		spans = append(spans, span{1879048192, 65536})
	}
	return func(uid uint32) bool {
		return slices.ContainsFunc(spans, func(s span) bool { return uint64(uid) >= s.first && uint64(uid) < s.first+s.n })
	}
}

// look lists what a build must not change: all below the folders, and in those that
// everybody uses what is the user's.
func (h *hostileLib) look() *host {
	h.t.Helper()
	s := &host{files: map[string]string{}, settings: map[string]string{}, mounts: map[string]string{}, processes: map[string]bool{}}
	mine := ours(h.t)
	add := func(top string, keep func(path string, st *syscall.Stat_t) bool) {
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			var st syscall.Stat_t
			if syscall.Lstat(path, &st) != nil {
				return nil // of somebody else, and just gone
			}
			if d != nil && d.IsDir() && err == nil && path != top && !keep(path, &st) {
				return fs.SkipDir
			}
			if !keep(path, &st) {
				return nil
			}
			link, _ := os.Readlink(path)
			s.files[path] = fmt.Sprintf("%o %d:%d %d %d.%09d inode %d links %d %x %s", st.Mode, st.Uid, st.Gid, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ino, st.Nlink, st.Rdev, link)
			return nil
		})
	}
	all := func(string, *syscall.Stat_t) bool { return true }
	for _, top := range []string{"/etc", "/usr/bin", "/usr/sbin", "/usr/lib/systemd", "/usr/local/bin", "/usr/lib/ossify", "/boot", "/opt", "/srv", "/root", "/var/lib/dpkg/info"} {
		add(top, all)
	}
	// Of the test only what the build has to change is left out.
	changes := []string{filepath.Join(h.dir, "stdout"), filepath.Join(h.dir, "stderr"), filepath.Join(h.dir, "m.json"), filepath.Join(h.dir, "out")}
	kept := func(path string, st *syscall.Stat_t) bool {
		return !strings.HasPrefix(path, h.store) && !slices.Contains(changes, path) && path != h.dir && mine(st.Uid)
	}
	add(filepath.Dir(program(h.t)), all)
	add(h.dir, kept)
	if home, err := os.UserHomeDir(); err == nil && os.Getuid() != 0 {
		add(home, kept)
	}
	if os.Getuid() != 0 {
		for _, top := range []string{"/tmp", "/var/tmp", "/dev/shm", "/run", "/mnt", "/media", "/home", "/var/spool"} {
			add(top, kept)
		}
	}
	// Checkpoints that are there stay as they are; directories get new siblings.
	add(filepath.Join(h.store, "storage/overlay"), func(path string, st *syscall.Stat_t) bool {
		return strings.Contains(path, "/diff") || st.Mode&syscall.S_IFMT == syscall.S_IFDIR && !strings.Contains(path, "/diff/")
	})
	for path := range s.files {
		if strings.HasPrefix(path, h.store) && !strings.Contains(path, "/diff") {
			delete(s.files, path)
		}
	}
	for _, path := range []string{"kernel/hostname", "kernel/domainname", "kernel/core_pattern", "kernel/modprobe", "kernel/sysrq", "kernel/printk", "kernel/pid_max",
		"kernel/panic", "kernel/shmmax", "kernel/msgmax", "vm/overcommit_memory", "vm/swappiness", "fs/suid_dumpable", "fs/protected_symlinks", "fs/file-max", "net/ipv4/ip_forward",
		"net/core/somaxconn", "net/ipv4/ip_local_port_range", "user/max_user_namespaces", "fs/binfmt_misc/status"} {
		data, err := os.ReadFile("/proc/sys/" + path)
		s.settings[path] = fmt.Sprint(string(data), err)
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		// Others may mount at places of their own meanwhile.
		if strings.Count(f[4], "/") < 3 || strings.HasPrefix(f[4], h.dir) || strings.HasPrefix(f[4], "/sys/") || strings.HasPrefix(f[4], "/dev/") {
			s.mounts[f[4]] += strings.Join(f[3:6], " ") + " " + strings.Join(f[6:], " ") + "\n"
		}
	}
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range pids {
		var st syscall.Stat_t
		if syscall.Stat(dir, &st) == nil && (mine(st.Uid) && os.Getuid() != 0) && filepath.Base(dir) != strconv.Itoa(os.Getpid()) {
			line, _ := os.ReadFile(dir + "/cmdline")
			s.processes[filepath.Base(dir)+" "+strings.ReplaceAll(string(line), "\x00", " ")] = true
		}
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		h.t.Fatal(err)
	}
	s.descriptors = len(open)
	return s
}

// unchanged sees that this machine is as it was.
func (h *hostileLib) unchanged(before *host) {
	h.t.Helper()
	var after *host
	// A process may need a moment to be gone.
	for range 100 {
		if after = h.look(); len(after.processes) <= len(before.processes) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, c := range []struct {
		what          string
		before, after map[string]string
	}{{"file", before.files, after.files}, {"setting", before.settings, after.settings}, {"mount", before.mounts, after.mounts}} {
		for name, was := range c.before {
			if is, ok := c.after[name]; !ok {
				h.t.Errorf("the %s %s is gone, it was %s", c.what, name, was)
			} else if is != was {
				h.t.Errorf("the %s %s was %s, is %s", c.what, name, was, is)
			}
		}
		for name, is := range c.after {
			if _, ok := c.before[name]; !ok && !strings.HasPrefix(name, h.store) {
				h.t.Errorf("the %s %s is new: %s", c.what, name, is)
			}
		}
	}
	for p := range after.processes {
		if !before.processes[p] {
			h.t.Errorf("the process %s is left", p)
		}
	}
	if after.descriptors > before.descriptors {
		h.t.Errorf("%d descriptors are open, %d were", after.descriptors, before.descriptors)
	}
	if len(before.files) < 1000 {
		h.t.Errorf("only %d files were looked at", len(before.files))
	}
}

// attemptLine is what a stage prints of an attempt.
var attemptLine = regexp.MustCompile(`^\s*(\d+) (.+?): (refused with [A-Z0-9]+|contained, .+|DONE.*)$`)

// attempts reads what a stage has printed, and sees that nothing was done.
func (h *hostileLib) attempts(text string) (count map[int]int, contained int, seen map[string]bool) {
	h.t.Helper()
	count, seen = map[int]int{}, map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		m := attemptLine.FindStringSubmatch(line)
		if m == nil {
			if strings.Contains(line, "DONE") || strings.Contains(line, "apart:") || strings.Contains(line, "Traceback") {
				h.t.Errorf("%s", line)
			}
			continue
		}
		n, _ := strconv.Atoi(m[1])
		count[n]++
		seen[m[1]+" "+m[2]] = true
		switch {
		case strings.HasPrefix(m[3], "DONE"):
			h.t.Errorf("the attempt succeeds: %s", strings.TrimSpace(line))
		case strings.HasPrefix(m[3], "contained"):
			contained++
		}
	}
	return count, contained, seen
}

// server hears what must not be said to it.
type server struct {
	mu    sync.Mutex
	heard []string
}

func (s *server) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = append(s.heard, what)
}

func (s *server) listen(t *testing.T, network, address string) string {
	t.Helper()
	if strings.HasPrefix(network, "udp") || network == "unixgram" {
		c, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				s.note(fmt.Sprintf("%s: %q from %v", network, buf[:n], from))
				_, _ = c.WriteTo(buf[:n], from)
			}
		}()
		return c.LocalAddr().String()
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.note(network + ": a connection")
			c.Close()
		}
	}()
	return l.Addr().String()
}

func port(t *testing.T, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAttempts runs a stage that tries everything.
func TestAttempts(t *testing.T) {
	h := newAttempts(t)
	script, err := os.ReadFile("testdata/attempts/stage.py")
	if err != nil {
		t.Fatal(err)
	}
	h.module("stages", "attempts", string(script), 0o755)
	var s server
	tag := fmt.Sprint(os.Getpid())
	socket, helper := filepath.Join(h.dir, "socket"), filepath.Join(h.dir, "helper")
	args := map[string]any{
		"socket": socket, "helper": helper, "abstract": []string{"attempt-s-" + tag, "attempt-p-" + tag, "attempt-d-" + tag},
		"tcp": port(t, s.listen(t, "tcp", "0.0.0.0:0")), "udp": port(t, s.listen(t, "udp", "0.0.0.0:0")),
		"pids": []int{os.Getpid(), os.Getppid(), 1, 2}, "last": 70000,
	}
	for network, addresses := range map[string][]string{"unix": {socket, "@attempt-s-" + tag}, "unixpacket": {helper, "@attempt-p-" + tag}, "unixgram": {"@attempt-d-" + tag}} {
		for _, address := range addresses {
			s.listen(t, network, address)
		}
	}
	addresses := []string{}
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			addresses = append(addresses, ip.IP.String())
		}
	}
	args["addresses"] = addresses
	text, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	h.write("lib/attempts.json", string(text))
	base := []stage{{Type: "org.osbuild.mkdir", Options: map[string]any{"paths": []any{map[string]any{"path": "/dir"}}}}, {Type: "org.osbuild.hostname", Options: map[string]any{"hostname": "base"}},
		{Type: "org.osbuild.copy", Options: map[string]any{"paths": []any{map[string]any{"from": "tree:///etc/hostname", "to": "tree:///file"}}}}}
	base = slices.Insert(base, 1, stage{Type: "org.osbuild.mkdir", Options: map[string]any{"paths": []any{map[string]any{"path": "/etc"}}}})
	tree := []stage{base[1], {Type: "org.hostile.attempts", Inputs: map[string]any{"tree": treeOf("base")}}}
	// The checkpoint of the base is there before, and with it what the store needs.
	h.expect(h.run(h.pipelines(nil, "base", base), nil, "--export", "base", "--output-directory", filepath.Join(h.dir, "out")), 0)
	before := h.look()
	start := time.Now()
	o := h.run(h.pipelines(nil, "base", base, "tree", tree), nil, "--checkpoint", "tree", "--helper", helper, "--monitor", "LogMonitor")
	if o.status != 0 {
		t.Fatalf("status %d\n%s\n%.3000s", o.status, o.stdout[max(0, len(o.stdout)-5000):], o.stderr)
	}
	count, contained, seen := h.attempts(o.stdout)
	total := 0
	for _, n := range count {
		total += n
	}
	t.Logf("%d attempts in %s, %d of them had an effect in the container only: %v", total, time.Since(start), contained, count)
	if !strings.Contains(o.stdout, "the attempts have ended") {
		t.Errorf("the stage has ended early:\n%.3000s", o.stdout[max(0, len(o.stdout)-3000):])
	}
	for n, least := range map[int]int{1: 1000, 2: 300, 3: 80, 4: 40, 5: 30, 8: 60, 9: 60, 11: 90, 13: 60, 14: 150} {
		if count[n] < least {
			t.Errorf("attempt %d was made in %d ways only, there are %d at least", n, count[n], least)
		}
	}
	for _, what := range []string{
		"1 remount /usr without ro", "1 in a nested namespace: remount /usr without ro", "1 in a twice nested namespace: open_tree all below /usr and clear nosuid",
		"1 bind all below /run/osbuild/inputs and remount it without ro", "1 mount_setattr /run/osbuild/lib without nodev",
		"2 unmount /usr", "2 in a nested namespace: unmount /usr", "2 move the mount /usr", "2 pivot_root and unmount below the old root", "2 hard link into the tree /run/osbuild/inputs/tree/file",
		"3 make the device node mem in /run/osbuild/tree", "3 make the device node loop0 in a new tmpfs", "3 mount ext4 of a file",
		"4 write /proc/self/exe", "4 write /proc/1/exe", "4 truncate /run/osbuild/bin/org.hostile.attempts", "4 write /run/osbuild/lib/stages/org.hostile.attempts",
		"5 descriptor 0 leads to files", "5 leave the root by chroot", "8 connect to " + helper + " for packets",
		"9 see the parent", "9 ptrace " + tag, "9 read the memory of " + tag, "9 signal any process up to 70000", "9 see who listens at /run/osbuild/api/osbuild",
		"11 mount cgroup", "11 fsopen cgroup2", "11 write /proc/sys/kernel/core_pattern", "11 write /proc/sysrq-trigger", "11 mount debugfs",
		fmt.Sprintf("13 connect to 127.0.0.1 port %d", args["tcp"]), "13 ask 127.0.0.1 by UDP", "13 connect to the abstract socket attempt-s-" + tag + " by type 1", "13 a socket for packets",
		"14 say garbage 3 with two to /run/osbuild/api/osbuild", "14 say 1099511627776 bytes to /run/osbuild/api/remoteloop", "14 open many connections to /run/osbuild/api/osbuild",
	} {
		if !seen[what] {
			t.Errorf("the attempt was not made: %s", what)
		}
	}
	if len(s.heard) > 0 {
		t.Errorf("the stage was heard: %q", s.heard)
	}
	if o.maxRSS > 300<<10 {
		t.Errorf("the engine took %d KiB", o.maxRSS)
	}
	h.unchanged(before)
}

// secretText is in a file of the user that no stage may see.
const secretText = "a secret of the user"

// links makes folders of its tree symbolic links.
const linksStage = `#!/bin/sh
set -e
kind=$(sed 's/.*"kind": *"\([a-z]*\)".*/\1/' </run/osbuild/api/arguments)
cd /run/osbuild/tree
mkdir inside
for name in proc sys dev run etc tmp var boot home root usr/share; do
	mkdir -p usr
	case $kind in
	absolute) to=/inside ;;
	relative) to=../../../../../../../inside ;;
	dangling) to=nothing/here ;;
	loop) to=/$name ;;
	self) to=/proc/self/root/inside ;;
	host) to=$(cat /run/osbuild/lib/secret) ;;
	esac
	rm -rf "$name"
	ln -s "$to" "$name"
done
`

// TestAttemptsLinks runs stages, and what the engine itself does with trees, on trees whose
// folders are symbolic links.
func TestAttemptsLinks(t *testing.T) {
	h := newAttempts(t)
	h.write("precious/key", secretText)
	h.module("stages", "links", linksStage, 0o755)
	// A foreign stage that does as those do that run the tree's programs.
	h.module("stages", "chroots", `#!/bin/sh
cd /run/osbuild/tree
for name in proc sys dev; do
	mkdir -p $name 2>&1
	mount --rbind /$name $name 2>&1 && { touch $name/attempt 2>&1; umount --lazy $name; }
done
for name in etc run tmp var home root boot; do
	echo attempt >$name/attempt
	cat $name/key $name/*/key
done 2>&1
chroot . /bin/true 2>&1
exit 0
`, 0o755)
	var want = map[string]any{"paths": []any{map[string]any{"path": "/etc/attempt-dir", "parents": true, "exist_ok": true}}}
	stages := []stage{
		{Type: "org.osbuild.hostname", Options: map[string]any{"hostname": "attempt"}},
		{Type: "org.osbuild.mkdir", Options: want},
		{Type: "org.osbuild.machine-id", Options: map[string]any{"first-boot": "yes"}},
		{Type: "org.osbuild.locale", Options: map[string]any{"language": "C.UTF-8"}},
		{Type: "org.osbuild.timezone", Options: map[string]any{"zone": "UTC"}},
		{Type: "org.osbuild.fstab", Options: map[string]any{"filesystems": []any{map[string]any{"uuid": "00000000-0000-0000-0000-000000000000", "vfs_type": "ext4", "path": "/"}}}},
		{Type: "org.osbuild.users", Options: map[string]any{"users": map[string]any{"attempt": map[string]any{"home": "/home/attempt", "key": "ssh-ed25519 AAAA"}}}},
		{Type: "org.osbuild.groups", Options: map[string]any{"groups": map[string]any{"attempt": map[string]any{}}}},
		{Type: "org.osbuild.systemd", Options: map[string]any{"enabled_services": []string{"sshd.service"}}},
		{Type: "org.osbuild.script", Options: map[string]any{"script": "#!/bin/sh\necho attempt >/etc/attempt\n"}},
		{Type: "org.osbuild.dracut", Options: map[string]any{"kernel": []string{"1"}}},
		{Type: "org.osbuild.chmod", Options: map[string]any{"items": map[string]any{"/etc": map[string]any{"mode": "0777", "recursive": true}}}},
		{Type: "org.osbuild.chown", Options: map[string]any{"items": map[string]any{"/etc": map[string]any{"user": 1, "group": 1, "recursive": true}}}},
		{Type: "org.osbuild.tmpfilesd", Options: map[string]any{"filename": "attempt.conf", "config": []any{map[string]any{"type": "d", "path": "/x"}}}},
		{Type: "org.osbuild.resolv-conf", Options: map[string]any{"nameserver": []string{"192.0.2.1"}}},
		{Type: "org.hostile.chroots"},
	}
	h.expect(h.run(h.pipelines(nil, "warm", []stage{{Type: "org.osbuild.noop"}}), nil, "--checkpoint", "warm"), 0)
	before := h.look()
	runs, failed, n := 0, 0, 0
	for _, kind := range []string{"absolute", "relative", "dangling", "loop", "self", "host"} {
		t.Run(kind, func(t *testing.T) {
			h.t = t
			// Each stage has a pipeline of its own on the same links.
			links := stage{Type: "org.hostile.links", Options: map[string]any{"kind": kind}}
			for i, s := range stages {
				if kind != "absolute" && kind != "host" && i%3 != 0 {
					continue
				}
				n++
				o := h.run(h.pipelines(nil, "tree", []stage{links, s}), nil, "--checkpoint", "tree", "--export", "tree", "--export", "tree:tar", "--output-directory", filepath.Join(h.dir, "out", strconv.Itoa(n)))
				runs++
				text := o.stdout + o.stderr
				if strings.Contains(text, secretText) {
					t.Errorf("%s shows a file of the user:\n%.3000s", s.Type, text)
				}
				if o.status != 0 {
					failed++
				}
				if o.status > 1 || crash.MatchString(text) || o.status != 0 && strings.Count("\n"+o.stderr, "\nossify: ") != 1 {
					t.Errorf("%s: status %d\n%.3000s", s.Type, o.status, o.stderr)
				}
				if s.Type == "org.hostile.chroots" && !strings.Contains(text, "/bin/true") {
					t.Errorf("the stage that chroots did not get to its end:\n%s", text)
				}
			}
		})
	}
	h.t = t
	t.Logf("%d stages, of which %d failed with an error", runs, failed)
	if failed == 0 || failed == runs {
		t.Errorf("%d of %d stages failed", failed, runs)
	}
	h.unchanged(before)
	h.noSecret(filepath.Join(h.dir, "out"))
}

// noSecret sees that nobody has copied the secret.
func (h *hostileLib) noSecret(dir string) {
	h.t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), secretText) {
			h.t.Errorf("%s has the secret", path)
		}
		return err
	})
	if err != nil {
		h.t.Error(err)
	}
}

// rootStage copies a shell and what it needs to its tree, and makes links of what the
// engine shows of build roots.
const rootStage = `#!/bin/sh
set -e
cd /run/osbuild/tree
mkdir -p usr/bin usr/lib etc
for program in sh cat ls true mkdir chmod cp; do
	cp -L "/usr/bin/$program" usr/bin/
	ldd "/usr/bin/$program" | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p "usr/$(dirname "${library#/usr}")"
		cp -L "$library" "usr/${library#/usr}"
	done
done
ln -s lib usr/lib64 2>/dev/null || true
secret=$(cat /run/osbuild/lib/secret)
kind=$(sed 's/.*"kind": *"\([a-z]*\)".*/\1/' </run/osbuild/api/arguments)
case $kind in
absolute) to=$secret ;;
relative) to=../../../../../../../../../../..$secret ;;
self) to=/proc/self/root$secret ;;
esac
for name in boot ostree etc/containers etc/selinux etc/alternatives etc/ssl etc/pki; do
	ln -s "$to" "$name"
done
ln -s "$to/key" etc/mke2fs.conf
`

// TestAttemptsBuildRoot builds with a tree as build root that leads to files of the user by
// symbolic links.
func TestAttemptsBuildRoot(t *testing.T) {
	h := newAttempts(t)
	h.write("precious/key", secretText)
	h.module("stages", "root", rootStage, 0o755)
	h.module("stages", "reads", `#!/bin/sh
for name in boot ostree etc/containers etc/selinux etc/alternatives etc/ssl etc/pki; do
	ls /$name 2>&1
	cat /$name/key 2>&1
done
cat /etc/mke2fs.conf 2>&1
cp -r /boot /etc /run/osbuild/tree/ 2>&1
echo the stage has ended
`, 0o755)
	h.expect(h.run(h.pipelines(nil, "warm", []stage{{Type: "org.osbuild.noop"}}), nil, "--checkpoint", "warm"), 0)
	before := h.look()
	for _, kind := range []string{"absolute", "relative", "self"} {
		t.Run(kind, func(t *testing.T) {
			h.t = t
			manifest := h.pipelines(nil, "build", []stage{{Type: "org.hostile.root", Options: map[string]any{"kind": kind}}}, "tree/build", []stage{{Type: "org.hostile.reads"}})
			o := h.run(manifest, nil, "--export", "tree", "--output-directory", filepath.Join(h.dir, "out"), "--monitor", "LogMonitor")
			if o.status != 0 || !strings.Contains(o.stdout, "the stage has ended") {
				t.Errorf("status %d\n%.3000s\n%.3000s", o.status, o.stdout, o.stderr)
			}
			if strings.Contains(o.stdout+o.stderr, secretText) {
				t.Errorf("the stage reads a file of the user:\n%.3000s", o.stdout)
			}
			h.noSecret(filepath.Join(h.dir, "out"))
		})
	}
	h.t = t
	h.unchanged(before)
}

// inline is a source with files, and their checksums.
func inline(contents ...[]byte) (source map[string]any, sums []string) {
	items := map[string]any{}
	for _, content := range contents {
		key := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
		items[key] = map[string]any{"encoding": "base64", "data": base64.StdEncoding.EncodeToString(content)}
		sums = append(sums, key)
	}
	return map[string]any{"org.osbuild.inline": map[string]any{"items": items}}, sums
}

// filesOf is an input with files of sources.
func filesOf(sums ...string) map[string]any {
	return map[string]any{"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": sums}
}

func archive(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len("attempt"))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte("attempt")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestAttemptsNames uses names and paths that lead elsewhere wherever a manifest, the command
// line or an archive can have one.
func TestAttemptsNames(t *testing.T) {
	h := newAttempts(t)
	out, escape := filepath.Join(h.dir, "out", "deep"), filepath.Join(h.dir, "attempted")
	h.write("precious/key", secretText)
	secret := filepath.Join(h.dir, "precious/key")
	up := strings.Repeat("../", 30)
	// A path from any place to the same one.
	far := up + strings.TrimPrefix(escape, "/")
	one := func(s stage) []stage { return []stage{s} }
	noop := one(stage{Type: "org.osbuild.noop"})
	options := func(kind, text string, args ...any) stage {
		var o map[string]any
		if err := json.Unmarshal(fmt.Appendf(nil, text, args...), &o); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return stage{Type: kind, Options: o}
	}
	with := func(s stage, inputs map[string]any) stage { s.Inputs = inputs; return s }
	hello, sums := inline([]byte("hello"))
	type attempt struct {
		name     string
		manifest func() string
		args     []string
		// contained says that the build succeeds, and what it makes is in the tree.
		contained bool
	}
	var all []attempt
	add := func(name string, contained bool, manifest func() string, args ...string) {
		all = append(all, attempt{name, manifest, args, contained})
	}
	tree := func(s stage) func() string {
		return func() string { return h.pipelines(hello, "base", noop, "tree", []stage{s}) }
	}
	for _, name := range []string{"../attempted", far, escape, ".", "..", "a\x00b", "a\nb", ""} {
		add(fmt.Sprintf("a pipeline %q", name), false, func() string { return h.pipelines(nil, strings.ReplaceAll(name, "/", "\x01"), noop, "tree", noop) }, "--export", name)
		add(fmt.Sprintf("--export %q", name), false, func() string { return h.pipelines(nil, "tree", noop) }, "--export", name)
		add(fmt.Sprintf("--export %q as tar", name), false, func() string { return h.pipelines(nil, "tree", noop) }, "--export", name+":tar")
		add(fmt.Sprintf("a stage %q", name), false, func() string { return h.pipelines(nil, "tree", one(stage{Type: name})) })
		add(fmt.Sprintf("a stage org.osbuild.noop/%q", name), false, func() string { return h.pipelines(nil, "tree", one(stage{Type: "org.osbuild.noop/" + name})) })
		add(fmt.Sprintf("a source %q", name), false, func() string {
			return h.pipelines(map[string]any{name: map[string]any{"items": map[string]any{}}}, "tree", noop)
		})
		add(fmt.Sprintf("an item %q of a source", name), false, func() string {
			return h.pipelines(map[string]any{"org.osbuild.inline": map[string]any{"items": map[string]any{name: map[string]any{"encoding": "base64", "data": ""}}}}, "tree", noop)
		})
		add(fmt.Sprintf("a reference %q", name), false, tree(with(options("org.osbuild.noop", `{}`), map[string]any{"f": filesOf(name)})))
		add(fmt.Sprintf("a reference to a pipeline %q", name), false, tree(with(options("org.osbuild.noop", `{}`), map[string]any{"f": treeOf(name)})))
		add(fmt.Sprintf("an input %q", name), name == "a\nb", tree(with(options("org.osbuild.noop", `{}`), map[string]any{name: treeOf("base")})))
	}
	quote := func(text string) string { data, _ := json.Marshal(text); return string(data) }
	// What osbuild takes below the root of a tree is taken so, too.
	for _, path := range []string{"../attempted", "/" + far, escape} {
		q := quote("tree://" + "/" + strings.TrimPrefix(path, "/"))
		plain := quote(path)
		add("mkdir "+path, path == escape, tree(options("org.osbuild.mkdir", `{"paths": [{"path": %s, "parents": true}]}`, plain)))
		add("copy to "+path, path != escape && !strings.HasSuffix(path, far), tree(with(options("org.osbuild.copy", `{"paths": [{"from": "input://f/%s", "to": %s}]}`, sums[0], q), map[string]any{"f": filesOf(sums[0])})))
		add("copy from "+path, false, tree(options("org.osbuild.copy", `{"paths": [{"from": %s, "to": "tree:///x"}]}`, q)))
		add("copy from an input "+path, false, tree(with(options("org.osbuild.copy", `{"paths": [{"from": %s, "to": "tree:///x"}]}`, quote("input://f/"+path)), map[string]any{"f": filesOf(sums[0])})))
		add("chmod "+path, false, tree(options("org.osbuild.chmod", `{"items": {%s: {"mode": "0777"}}}`, quote("/"+path))))
		add("chown "+path, false, tree(options("org.osbuild.chown", `{"items": {%s: {"user": 1}}}`, quote("/"+path))))
		add("truncate "+path, path != escape && !strings.HasSuffix(path, far), tree(options("org.osbuild.truncate", `{"filename": %s, "size": "4096"}`, plain)))
		add("ln "+path, path != escape && !strings.HasSuffix(path, far), tree(options("org.osbuild.ln", `{"paths": [{"target": "x", "link_name": %s, "symbolic": true}]}`, q)))
		add("untar to "+path, false, tree(with(options("org.osbuild.untar", `{"prefix": %s}`, plain), map[string]any{"file": filesOf(sums[0])})))
		add("cpio to "+path, path != escape && !strings.HasSuffix(path, far), tree(with(options("org.osbuild.cpio.out", `{"filename": %s}`, plain), map[string]any{"tree": treeOf("base")})))
		add("zip to "+path, false, tree(with(options("org.osbuild.zip", `{"filename": %s}`, plain), map[string]any{"tree": treeOf("base")})))
		add("tar to "+path, path != escape && !strings.HasSuffix(path, far), tree(with(options("org.osbuild.tar", `{"filename": %s}`, plain), map[string]any{"tree": treeOf("base")})))
		add("tmpfiles "+path, false, tree(options("org.osbuild.tmpfilesd", `{"filename": %s, "config": [{"type": "d", "path": "/x"}]}`, quote(path+".conf"))))
		add("a unit "+path, false, tree(options("org.osbuild.systemd.unit.create", `{"filename": %s, "config": {"Unit": {"Description": "x"}, "Service": {"ExecStart": ["/x"]}, "Install": {"WantedBy": ["x.target"]}}}`, quote(path+".service"))))
		add("a user "+path, false, tree(options("org.osbuild.users", `{"users": {%s: {}}}`, plain)))
		add("the home of a user "+path, false, tree(options("org.osbuild.users", `{"users": {"u": {"home": %s, "key": "ssh-ed25519 AAAA"}}}`, plain)))
		add("a time zone "+path, false, tree(options("org.osbuild.timezone", `{"zone": %s}`, plain)))
		add("a host name "+path, false, tree(options("org.osbuild.hostname", `{"hostname": %s}`, plain)))
		mounted := options("org.osbuild.noop", `{}`)
		mounted.Mounts = []any{map[string]any{"name": "m", "type": "org.osbuild.bind", "target": "tree://" + path, "options": map[string]any{"source": "tree://" + path}}}
		add("a mount at "+path, false, tree(mounted))
		file := map[string]any{"type": "org.osbuild.files", "origin": "org.osbuild.pipeline", "references": map[string]any{"name:base": map[string]any{"file": path}}}
		add("an input from the file "+path, false, tree(with(options("org.osbuild.noop", `{}`), map[string]any{"f": file})))
	}
	// A file of a tree that is a link to one of this machine.
	for _, to := range []string{secret, up + strings.TrimPrefix(secret, "/"), "/proc/self/root" + secret} {
		links := []stage{options("org.osbuild.ln", `{"paths": [{"target": %s, "link_name": "tree:///f", "symbolic": true}]}`, quote(to))}
		file := map[string]any{"type": "org.osbuild.files", "origin": "org.osbuild.pipeline", "references": map[string]any{"name:links": map[string]any{"file": "/f"}}}
		reads := with(options("org.osbuild.copy", `{"paths": [{"from": "input://f/", "to": "tree:///"}]}`), map[string]any{"f": file})
		add("an input from a link to "+to, false, func() string { return h.pipelines(nil, "links", links, "tree", one(reads)) })
	}
	type kind = byte
	entry := func(k kind, name, link string) *tar.Header {
		return &tar.Header{Typeflag: k, Name: name, Linkname: link}
	}
	for _, c := range []struct {
		name      string
		contained bool
		headers   []*tar.Header
	}{
		{"../", false, []*tar.Header{entry(tar.TypeReg, "../attempted", "")}},
		{"far ../", false, []*tar.Header{entry(tar.TypeReg, far, "")}},
		{"absolute", true, []*tar.Header{entry(tar.TypeReg, "/attempted", "")}},
		{"a link and through it", false, []*tar.Header{entry(tar.TypeSymlink, "l", up+strings.TrimPrefix(h.dir, "/")), entry(tar.TypeReg, "l/attempted", "")}},
		{"an absolute link and through it", false, []*tar.Header{entry(tar.TypeSymlink, "l", h.dir), entry(tar.TypeReg, "l/attempted", "")}},
		{"a link and over it", true, []*tar.Header{entry(tar.TypeSymlink, "l", secret), entry(tar.TypeReg, "l", "")}},
		{"a directory over a link", false, []*tar.Header{entry(tar.TypeSymlink, "l", h.dir), entry(tar.TypeDir, "l", ""), entry(tar.TypeReg, "l/attempted", "")}},
		{"a hard link outside", false, []*tar.Header{entry(tar.TypeLink, "l", far), entry(tar.TypeReg, "l", "")}},
		{"an absolute hard link", false, []*tar.Header{entry(tar.TypeLink, "l", "/etc/passwd")}},
		{"a hard link to a link", true, []*tar.Header{entry(tar.TypeSymlink, "l", secret), entry(tar.TypeLink, "m", "l"), entry(tar.TypeReg, "m", "")}},
		{"twice", true, []*tar.Header{entry(tar.TypeReg, "a", ""), entry(tar.TypeReg, "a", "")}},
		{"the root as a link", false, []*tar.Header{entry(tar.TypeSymlink, ".", h.dir), entry(tar.TypeReg, "attempted", "")}},
	} {
		source, sums := inline(archive(t, c.headers...))
		add("an archive with "+c.name, c.contained, func() string {
			return h.pipelines(source, "tree", one(with(options("org.osbuild.untar", `{}`), map[string]any{"file": filesOf(sums[0])})))
		})
	}
	h.expect(h.run(h.pipelines(nil, "warm", []stage{{Type: "org.osbuild.noop"}}), nil, "--checkpoint", "warm"), 0)
	before := h.look()
	refused := 0
	for i, c := range all {
		// The tree is seen in the result, whatever it is.
		args := append(slices.Clone(c.args), "--output-directory", filepath.Join(out, strconv.Itoa(i)))
		if len(c.args) == 0 {
			args = append(args, "--export", "tree")
		}
		manifest := c.manifest()
		// Names with slashes cannot be told apart in the helper above.
		data, err := os.ReadFile(manifest)
		if err != nil {
			t.Fatal(err)
		}
		h.write("m.json", strings.ReplaceAll(string(data), `\u0001`, "/"))
		if slices.ContainsFunc(args, func(a string) bool { return strings.ContainsRune(a, 0) }) {
			continue // execve(2) has no such arguments
		}
		o := h.run(manifest, nil, args...)
		switch {
		case crash.MatchString(o.stderr) || o.status > 2:
			t.Errorf("%s: status %d\n%.2000s", c.name, o.status, o.stderr)
		case c.contained != (o.status == 0):
			t.Errorf("%s: status %d, contained should be %v\n%.2000s", c.name, o.status, c.contained, o.stderr)
		}
		if o.status != 0 {
			refused++
		}
		if strings.Contains(o.stdout+o.stderr, secretText) {
			t.Errorf("%s shows a file of the user:\n%.2000s", c.name, o.stdout)
		}
	}
	t.Logf("%d attempts, %d were refused, the rest stays in the tree", len(all), refused)
	if _, err := os.Lstat(escape); err == nil {
		t.Errorf("%s was made", escape)
	}
	for _, pattern := range []string{"out/*", "out/deep/*"} {
		found, _ := filepath.Glob(filepath.Join(h.dir, pattern))
		for _, path := range found {
			if name := filepath.Base(path); name != "deep" && strings.Trim(name, "0123456789") != "" {
				t.Errorf("%s was made", path)
			}
		}
	}
	h.noSecret(filepath.Join(h.dir, "out"))
	h.unchanged(before)
}

// TestAttemptsDownloads downloads from servers that lie.
func TestAttemptsDownloads(t *testing.T) {
	h := newAttempts(t)
	h.write("precious/key", secretText)
	var told []string // what another server is told of the user
	var mu sync.Mutex
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range []string{"Authorization", "Cookie", "Referer", "Proxy-Authorization"} {
			if value := r.Header.Get(name); value != "" {
				told = append(told, name+": "+value)
			}
		}
		fmt.Fprint(w, "attempt")
	}))
	defer other.Close()
	hits := 0
	lies := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		hits++
		mu.Unlock()
		switch kind := strings.TrimPrefix(r.URL.Path, "/"); kind {
		case "file":
			w.Header().Set("Location", "file://"+filepath.Join(h.dir, "precious/key"))
		case "upper":
			w.Header().Set("Location", "FILE://"+filepath.Join(h.dir, "precious/key"))
		case "unix", "gopher", "ftp", "data":
			w.Header().Set("Location", kind+"://127.0.0.1/x")
		case "away":
			w.Header().Set("Location", strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+"/away?x=1")
		case "endless":
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		case "headers":
			for i := range 20000 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1000))
			}
			return
		case "gzip":
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = z.Write(make([]byte, 100<<20))
			z.Close()
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(b.Bytes())
			return
		case "set-cookie":
			http.SetCookie(w, &http.Cookie{Name: "c", Value: "v", Domain: "localhost"})
			w.Header().Set("Location", other.URL)
		default:
			fmt.Fprint(w, "other bytes")
			return
		}
		w.WriteHeader(http.StatusFound)
	}))
	defer lies.Close()
	at := strings.Replace(lies.URL, "http://", "http://me:password@", 1)
	good := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("attempt")))
	secret := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(secretText)))
	h.expect(h.run(h.pipelines(nil, "warm", []stage{{Type: "org.osbuild.noop"}}), nil, "--checkpoint", "warm"), 0)
	before := h.look()
	attempts := 0
	try := func(name, key string, item any, status int, words ...string) {
		t.Run(name, func(t *testing.T) {
			h.t = t
			attempts++
			source := map[string]any{"org.osbuild.curl": map[string]any{"items": map[string]any{key: item}}}
			manifest := h.pipelines(source, "tree", []stage{{Type: "org.osbuild.noop", Inputs: map[string]any{"f": filesOf(key)}}})
			o := h.run(manifest, nil, "--checkpoint", "tree", "--monitor", "LogMonitor")
			if o.status != status || crash.MatchString(o.stderr) || o.maxRSS > 300<<10 {
				t.Errorf("status %d, %d KiB\n%.2000s", o.status, o.maxRSS, o.stderr)
			}
			for _, word := range words {
				if !strings.Contains(o.stderr, word) {
					t.Errorf("the error does not have %q:\n%.2000s", word, o.stderr)
				}
			}
			if text := o.stdout + o.stderr; strings.Contains(text, secretText) || strings.Contains(text, "password") {
				t.Errorf("a secret is shown:\n%.2000s", text)
			}
			err := filepath.WalkDir(filepath.Join(h.store, "sources"), func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() && filepath.Base(path) != good {
					t.Errorf("stored: %s", path)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	x := strings.Repeat("0", 64)
	for _, key := range []string{
		"", "sha256", "sha256:", "sha256:" + x[1:], "sha256:" + x + "0", "sha256:" + strings.Repeat("A", 64), "sha256:" + strings.Repeat("g", 64), "SHA256:" + x, "sha255:" + x, "md5:" + x,
		"sha256:" + x + "\n", "sha256:../../" + x[6:], "../sha256:" + x, "sha256:" + x[:63] + "/", "sha256:" + x[:60] + "\x00000", "sha256:" + x + ":" + x, " sha256:" + x, "sha512:" + x,
	} {
		status := 2
		if strings.HasSuffix(key, "\n") { // for schemas, as for Python, it is as if it were not there
			status = 1
		}
		try(fmt.Sprintf("the checksum %q", key), key, lies.URL+"/plain", status)
	}
	try("wrong bytes", good, at+"/plain", 1, "nothing was stored")
	for _, kind := range []string{"file", "upper", "unix", "gopher", "ftp", "data"} {
		try("a redirect to "+kind, secret, at+"/"+kind, 1, "redirect")
	}
	try("a redirect to another host", good, at+"/away", 0)
	try("an endless answer", secret, map[string]any{"url": at + "/endless", "size": 1 << 20}, 1, "larger than")
	try("endless headers", secret, at+"/headers", 1)
	try("compressed zeros", secret, map[string]any{"url": at + "/gzip", "size": 1 << 20}, 1)
	for _, url := range []string{"/etc/passwd", "ftp://localhost/x", "unix:///run/x", "javascript:1", "http://", "http://[::1", "http://127.0.0.1:99999/", "-o/etc/x", "http://127.0.0.1/\r\nX: y", "file:precious"} {
		try(fmt.Sprintf("the URL %q", url), secret, url, 1)
	}
	h.t = t
	t.Logf("%d attempts; %d requests", attempts, hits)
	if len(told) > 0 {
		t.Errorf("another server was told %q", told)
	}
	h.unchanged(before)
}

// TestAttemptsBombs has content that becomes much more than it is.
func TestAttemptsBombs(t *testing.T) {
	h := newAttempts(t)
	command := func(script string) []byte {
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir = h.dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", script, err)
		}
		return out
	}
	var more []string // arguments
	try := func(name, manifest string, status int, words ...string) {
		t.Run(name, func(t *testing.T) {
			h.t = t
			start := time.Now()
			o := h.run(manifest, nil, append([]string{"--checkpoint", "tree", "--monitor", "LogMonitor"}, more...)...)
			t.Logf("status %d, %d KiB, %s", o.status, o.maxRSS, time.Since(start))
			if o.status != status || crash.MatchString(o.stderr) {
				t.Errorf("status %d\n%.2000s", o.status, o.stderr)
			}
			for _, word := range words {
				if !strings.Contains(o.stdout+o.stderr, word) {
					t.Errorf("nothing says %q:\n%.2000s", word, o.stderr)
				}
			}
			// GNU tar itself takes 16 bytes for each piece of a sparse file.
			if o.maxRSS > 400<<10 {
				t.Errorf("it took %d KiB", o.maxRSS)
			}
		})
	}
	unpacks := func(data []byte) string {
		source, sums := inline(data)
		return h.pipelines(source, "tree", []stage{{Type: "org.osbuild.untar", Inputs: map[string]any{"file": filesOf(sums[0])}}})
	}
	h.expect(h.run(h.pipelines(nil, "warm", []stage{{Type: "org.osbuild.noop"}}), nil, "--checkpoint", "warm"), 0)
	before := h.look()
	bomb := command("head -c 300M /dev/zero | xz --format=xz --lzma2=preset=0,dict=1GiB")
	key := "sha256:" + strings.Repeat("0", 64)
	try("zeros in the manifest", h.pipelines(map[string]any{"org.osbuild.inline": map[string]any{"items": map[string]any{key: map[string]any{
		"encoding": "lzma+base64", "data": base64.StdEncoding.EncodeToString(bomb)}}}},
		"tree", []stage{{Type: "org.osbuild.noop", Inputs: map[string]any{"f": filesOf(key)}}}), 1, "more than 268435456 bytes")
	command("mkdir bomb && truncate -s 64M bomb/zeros")
	for _, tool := range []string{"gzip", "xz -0", "zstd"} {
		try("zeros in an archive of "+tool, unpacks(command("tar -c bomb | "+tool)), 0)
	}
	// What is in an archive is not unpacked in turn.
	try("an archive in an archive", unpacks(command("mkdir nested && tar -c bomb | gzip >nested/a.tar.gz && tar -c nested | gzip")), 0)
	// GNU's form 1.0: the pieces stand before the data.
	command(`python3 - <<'EOF'
import tarfile
import io
def write(name, entries, size, end="\n"):
    with tarfile.open(name, "w:gz", format=tarfile.PAX_FORMAT, compresslevel=1) as t:
        data = (str(entries) + end + ("0" + end + "0" + end) * (entries - 1) + str(size) + end + "0" + end).encode()
        data += b"\0" * (-len(data) % 512)
        i = tarfile.TarInfo("GNUSparseFile.0/f")
        i.size = len(data)
        i.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "f", "GNU.sparse.realsize": str(size)}
        t.addfile(i, io.BytesIO(data))
write("pieces.tgz", 200000, 1 << 20)
write("many.tgz", 1000000, 1 << 20)
write("broken.tgz", 500000, 1 << 20, "x")
write("hole.tgz", 1, 1 << 43)
write("exabytes.tgz", 1, (1 << 63) - 1)
EOF`)
	for _, c := range []struct {
		name   string
		status int
		words  []string
		args   []string
	}{
		{"pieces", 0, nil, nil},
		// tar takes four seconds for each million; a limit ends it.
		{"many", 1, []string{"took longer than"}, []string{"--stage-timeout", "2"}},
		{"broken", 1, nil, nil},
		{"hole", 0, nil, nil},
		{"exabytes", 1, nil, nil},
	} {
		data, err := os.ReadFile(filepath.Join(h.dir, c.name+".tgz"))
		if err != nil {
			t.Fatal(err)
		}
		more = c.args
		try("a sparse file: "+c.name, unpacks(data), c.status, c.words...)
		more = nil
	}
	try("deep JSON", h.write("m.json", strings.Repeat("[", 5<<20)), 2)
	try("a long name", h.pipelines(nil, "tree", []stage{{Type: strings.Repeat("x", 1<<20)}}), 2)
	h.t = t
	for _, name := range []string{"bomb", "nested", "pieces.tgz", "many.tgz", "broken.tgz", "hole.tgz", "exabytes.tgz"} {
		if err := os.RemoveAll(filepath.Join(h.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	h.unchanged(before)
}
