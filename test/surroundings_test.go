package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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

// write writes a file below the build's folder.
func (b *faultyBuild) write(path, text string, mode os.FileMode) string {
	b.t.Helper()
	path = filepath.Join(b.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// on is a command on the store; its first arguments may be "store" and a subcommand.
func (b *faultyBuild) on(args ...string) *exec.Cmd {
	cmd := exec.Command(b.args[0], args...)
	cmd.Env = append(os.Environ(), "OSSIFY_STORE="+b.store)
	return cmd
}

// tell runs a command on the store, which must succeed, and returns what it prints.
func (b *faultyBuild) tell(args ...string) string {
	b.t.Helper()
	var text strings.Builder
	cmd := b.on(args...)
	cmd.Stdout = &text
	if status, stderr := b.run(strings.Join(args, " "), cmd); status != 0 {
		b.t.Fatalf("%s: status %d\n%s", args, status, stderr)
	}
	return text.String()
}

// refused runs a command on the store, which must fail with these words.
func (b *faultyBuild) refused(words string, args ...string) {
	b.t.Helper()
	if status, stderr := b.run(strings.Join(args, " "), b.on(args...)); status != 1 || !strings.Contains(stderr, words) || crash.MatchString(stderr) {
		b.t.Errorf("%s: status %d, want 1 and %q\n%s", args, status, words, stderr)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(hang); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not happen: %s", what)
		}
	}
}

// ran is how many stages a build says that it ran.
func ran(t *testing.T, summary string) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^stages: (?:(\d+) ran, )?\d+ cached|^stages: (\d+) ran`).FindStringSubmatch(summary)
	if m == nil {
		t.Fatalf("no summary in %q", summary)
	}
	n, err := strconv.Atoi("0" + m[1] + m[2])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// clockManifest is killManifest with a download, of which a stage makes a file.
const clockManifest = `{"version": "2", "pipelines": [
  {"name": "tree", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/etc"}]}},
    {"type": "org.osbuild.copy", "options": {"paths": [{"from": "input://f/sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", "to": "tree:///etc/%s"}]},
     "inputs": {"f": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": ["sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"]}}}]},
  {"name": "tar", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.tar", "options": {"filename": "tree.tar"},
     "inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}}}]}],
 "sources": {"org.osbuild.inline": {"items": {"sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03": {"encoding": "base64", "data": "aGVsbG8K"}}}}}`

// shift lets the store have been used that much later.
func (b *faultyBuild) shift(by time.Duration) {
	b.t.Helper()
	path := filepath.Join(b.store, "storage/overlay-layers/layers.json")
	data, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	n := 0
	data = regexp.MustCompile(`"created":"[^"]*"`).ReplaceAllFunc(data, func(old []byte) []byte {
		var created struct{ Created time.Time }
		if err := json.Unmarshal([]byte("{"+string(old)+"}"), &created); err != nil {
			b.t.Fatal(err)
		}
		n++
		return []byte(`"created":"` + created.Created.Add(by).Format(time.RFC3339Nano) + `"`)
	})
	if n == 0 {
		b.t.Fatalf("no layer in %s", path)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	files := 0
	for _, dir := range []string{"used", "sources", "digests", "lib", "storage/overlay-layers", "storage/overlay-images"} {
		err := filepath.WalkDir(filepath.Join(b.store, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Type()&fs.ModeSymlink != 0 {
				return err
			}
			var st syscall.Stat_t
			if err := syscall.Stat(path, &st); err != nil {
				return err
			}
			files++
			return os.Chtimes(path, time.Unix(st.Atim.Unix()).Add(by), time.Unix(st.Mtim.Unix()).Add(by))
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	b.t.Logf("%d layers, %d files", n, files)
}

// TestClock builds with a store that was used when the machine's clock was ten years off.
// It cannot be set for one program, so what the store has noted is.
func TestClock(t *testing.T) {
	const years = 10 * 365 * 24 * time.Hour
	b := newFaultyBuild(t)
	first := b.write("first.json", fmt.Sprintf(clockManifest, "first"), 0o644)
	second := b.write("second.json", fmt.Sprintf(clockManifest, "second"), 0o644)
	build := func(manifest string) (int, string) {
		t.Helper()
		out := b.tell("--export", "tar", "--output-directory", filepath.Join(b.dir, "out"), manifest)
		left(t, b.store)
		return ran(t, out), sum(t, b.result())
	}
	checkpoints := func() int { return strings.Count(b.tell("store", "ls"), "org.osbuild.") }
	prune := func(args ...string) { b.tell(append([]string{"store", "prune"}, args...)...) }
	_, wantFirst := build(first)
	_, wantSecond := build(second)
	for _, c := range []struct {
		name string
		by   time.Duration
	}{{"past", -years}, {"future", years}} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			prune("--max-size", "0")
			build(first)
			b.shift(c.by)
			if list := b.tell("store", "ls", "--all"); !strings.Contains(list, "org.osbuild.copy") {
				t.Errorf("the list has no stages:\n%s", list)
			} else {
				t.Logf("\n%s", list)
			}
			b.tell("store", "ls", "--json")
			b.tell("store", "df")
			if n, got := build(first); n != 0 || got != wantFirst {
				t.Errorf("%d stages ran, the result is %s, want none and %s", n, got, wantFirst)
			}
			// The download is as old, or as new, as it was.
			b.shift(c.by)
			if n, got := build(second); n == 0 || got != wantSecond {
				t.Errorf("%d stages ran, the result is %s, want %s", n, got, wantSecond)
			}

			b.shift(c.by)
			n := checkpoints()
			prune("--older-than", "80000h") // somewhat more than nine years
			switch left := checkpoints(); {
			case c.by < 0 && left != 0:
				t.Errorf("of %d checkpoints %d stay", n, left)
			case c.by > 0 && left != n:
				t.Errorf("of %d checkpoints only %d stay", n, left)
			}
			build(first)
			b.shift(c.by)
			prune("--keep-last", "1")
			if n := checkpoints(); n == 0 {
				t.Error("the tree that was used last is gone")
			}
			b.tell("--quiet", "--cache-max-size", "1", first)
			if n := checkpoints(); n != 0 {
				t.Errorf("%d checkpoints stay in a store of no size", n)
			}
			if _, got := build(first); got != wantFirst {
				t.Errorf("the result is %s, want %s", got, wantFirst)
			}
		})
	}
}

// TestSmallSystem builds where folders that programs count on are not there, full, or not
// theirs.
func TestSmallSystem(t *testing.T) {
	b := newFaultyBuild(t)
	file := b.write("file", "", 0o644)
	// In the namespace we may write to whatever is ours.
	const closed = "/usr"
	fresh := filepath.Join(b.dir, "fresh")
	if err := os.Mkdir(fresh, 0o755); err != nil {
		t.Fatal(err)
	}
	const tmpfs = "mount -t tmpfs -o size=16k none "
	const full = `dd if=/dev/zero of=$dir/filler bs=1k count=64 2>/dev/null; test -s $dir/filler && `
	const shut = "mount -o remount,ro $dir && "
	for _, c := range []struct {
		name string
		// before is run in a namespace of its own, "" for none.
		before string
		// env are variables, without "=" such as are not set.
		env []string
		// own says that the build uses the store that it finds for itself.
		own bool
		// want is what the error says, "" if there is none.
		want string
	}{
		{"full /tmp", "dir=/tmp; " + tmpfs + "/tmp && " + full, nil, false, ""},
		{"read-only /tmp", "dir=/tmp; " + tmpfs + "/tmp && " + shut, nil, false, ""},
		{"full /dev/shm and /run", "dir=/dev/shm; " + tmpfs + "/dev/shm && " + full + "dir=/run; " + tmpfs + "/run && " + full, nil, false, ""},
		{"read-only /run", "dir=/run; " + tmpfs + "/run && " + shut, nil, false, ""},
		{"no TMPDIR", "", []string{"TMPDIR=" + b.dir + "/missing"}, false, ""},
		{"a file as TMPDIR", "", []string{"TMPDIR=" + file}, false, ""},
		{"a closed TMPDIR", "", []string{"TMPDIR=" + closed}, false, ""},
		{"HOME is not set", "", []string{"HOME"}, false, ""},
		{"no HOME", "", []string{"HOME=" + b.dir + "/missing"}, false, ""},
		{"a closed HOME", "", []string{"HOME=" + closed}, false, ""},
		{"no XDG directory", "", []string{"HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"}, false, ""},
		{"missing XDG directories", "", []string{"XDG_RUNTIME_DIR=/missing", "XDG_DATA_HOME=/missing", "XDG_CONFIG_HOME=/missing", "XDG_CACHE_HOME=/missing"}, false, ""},
		{"closed XDG directories", "", []string{"XDG_RUNTIME_DIR=" + closed, "XDG_DATA_HOME=" + closed, "XDG_CONFIG_HOME=" + closed, "XDG_CACHE_HOME=" + closed}, false, ""},
		{"a storage.conf with faults", "dir=/tmp; " + tmpfs + "/tmp && echo nonsense >/tmp/storage.conf && ", []string{"CONTAINERS_STORAGE_CONF=/tmp/storage.conf"}, false, ""},
		{"a newuidmap that fails", "", []string{"PATH=" + filepath.Dir(b.write("bin/newuidmap", "#!/bin/sh\nexit 1\n", 0o755)) + ":" + os.Getenv("PATH")}, false, "newuidmap has failed"},
		{"no environment but HOME", "", []string{"PATH", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "XDG_RUNTIME_DIR"}, false, "newuidmap is in /usr/bin, but that is not in PATH"},

		{"store in a new XDG_DATA_HOME", "", []string{"XDG_DATA_HOME=" + fresh + "/data", "HOME"}, true, ""},
		{"store in a new HOME", "", []string{"XDG_DATA_HOME", "HOME=" + fresh + "/home"}, true, ""},
		{"store in a closed XDG_DATA_HOME", "", []string{"XDG_DATA_HOME=" + closed}, true, "open store: mkdir " + closed + "/ossify: permission denied"},
		{"store in a closed HOME", "", []string{"XDG_DATA_HOME", "HOME=" + closed}, true, "open store: mkdir " + closed + "/.local: permission denied"},
		{"store in a file", "", []string{"XDG_DATA_HOME=" + file}, true, "open store: mkdir " + file + ": not a directory"},
		{"store on a full filesystem", "dir=/mnt; " + tmpfs + "/mnt && " + full, []string{"XDG_DATA_HOME=/mnt"}, true, "no space left on device"},
		{"store on a read-only filesystem", "dir=/mnt; " + tmpfs + "/mnt && " + shut, []string{"XDG_DATA_HOME=/mnt"}, true, "read-only file system"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			args := slices.Clone(b.args)
			if c.own {
				args = slices.Delete(args, 2, 4)
			}
			// What the store has besides checkpoints is made anew as well.
			if out, err := exec.Command(b.args[0], "unshare", "rm", "-rf", b.store, filepath.Join(b.dir, "out")).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			cmd := exec.Command(args[0], args[1:]...)
			if c.before != "" {
				cmd = exec.Command(args[0], append([]string{"unshare", "sh", "-c", c.before + `exec "$@"`, "sh"}, args...)...)
			}
			cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
				name, _, _ := strings.Cut(kv, "=")
				return name == "OSSIFY_STORE" || slices.ContainsFunc(c.env, func(e string) bool { return e == name || strings.HasPrefix(e, name+"=") })
			})
			for _, e := range c.env {
				if strings.Contains(e, "=") {
					cmd.Env = append(cmd.Env, e)
				}
			}
			status, stderr := b.run(c.name, cmd)
			switch {
			case c.want == "" && (status != 0 || sum(t, b.result()) != b.want):
				t.Errorf("status %d\n%s", status, stderr)
			case c.want != "" && (status == 0 || !strings.Contains(stderr, c.want) || crash.MatchString(stderr)):
				t.Errorf("status %d, want an error with %q\n%s", status, c.want, stderr)
			}
			t.Logf("status %d\n%s", status, stderr)
		})
	}
	b.t = t
	b.good("the build afterwards")
}

// waitingManifest has a stage between others that waits for the test; its argument
// tells the builds of a test from each other.
const waitingManifest = `{"version": "2", "pipelines": [
  {"name": "base", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/base"}]}}]},
  {"name": "tree", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/etc"}]}},
    {"type": "org.test.wait", "options": {"name": "%[1]s"},
     "inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:base"]}}},
    {"type": "org.osbuild.hostname", "options": {"hostname": "%[1]s"}}]},
  {"name": "tar", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.tar", "options": {"filename": "tree.tar"},
     "inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}}}]}]}`

// waiter is a stage that waits until there is a file in its libdir.
const waiter = `#!/bin/sh
name=$(sed 's/.*"name": *"\([a-z0-9]*\)".*/\1/' </run/osbuild/api/arguments)
mkdir /run/osbuild/tree/var
echo "waiting $name"
while ! test -e "/run/osbuild/lib/go-$name"; do
	sleep 0.05
done
test -d /run/osbuild/inputs/tree/base && echo "$name" >/run/osbuild/tree/var/name
`

// waiting is a build whose stage waits.
type waiting struct {
	b      *faultyBuild
	name   string
	cmd    *exec.Cmd
	stderr strings.Builder
	ended  chan error
}

func (b *faultyBuild) addWaiter() {
	b.t.Helper()
	b.write("lib/stages/org.test.wait", waiter, 0o755)
	b.write("lib/stages/org.test.wait.meta.json", `{"summary": "Wait", "description": [], "schema_2": {"options": {"type": "object"}, "inputs": {"type": "object"}}}`, 0o644)
}

// waitArgs are the arguments of a build with a waiting stage.
func (b *faultyBuild) waitArgs(name string) []string {
	b.t.Helper()
	manifest := b.write(name+".json", fmt.Sprintf(waitingManifest, name), 0o644)
	return []string{"--libdir", filepath.Join(b.dir, "lib"), "--export", "tar", "--output-directory", filepath.Join(b.dir, "out-"+name), "--monitor", "LogMonitor", manifest}
}

// wait starts a build and returns when its stage waits.
func (b *faultyBuild) wait(name string) *waiting {
	b.t.Helper()
	w := &waiting{b: b, name: name, cmd: b.on(b.waitArgs(name)...), ended: make(chan error, 1)}
	log := b.write("log-"+name, "", 0o644)
	out, err := os.OpenFile(log, os.O_WRONLY, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer out.Close()
	w.cmd.Stdout, w.cmd.Stderr = out, &w.stderr
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := w.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() { w.ended <- w.cmd.Wait() }()
	until(b.t, "the stage waits", func() bool {
		data, err := os.ReadFile(log)
		if err != nil {
			b.t.Fatal(err)
		}
		select {
		case err := <-w.ended:
			b.t.Fatalf("the build has ended: %v\n%s\n%s", err, data, &w.stderr)
		default:
		}
		return strings.Contains(string(data), "waiting "+name)
	})
	return w
}

// letGo lets the stage go on and returns how the build ends.
func (w *waiting) letGo() (status int, stderr string) {
	w.b.t.Helper()
	w.b.write("lib/go-"+w.name, "", 0o644)
	return w.end()
}

func (w *waiting) end() (status int, stderr string) {
	w.b.t.Helper()
	select {
	case err := <-w.ended:
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			w.b.t.Fatal(err)
		}
		return w.cmd.ProcessState.ExitCode(), w.stderr.String()
	case <-time.After(hang):
		left := processes(w.b.dir)
		_ = syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL)
		w.b.t.Fatalf("the build hangs: %q", left)
	}
	return 0, ""
}

// kill kills the build's engine and all that it has started.
func (w *waiting) kill() {
	_ = syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL)
	<-w.ended
}

func (w *waiting) result() string { return filepath.Join(w.b.dir, "out-"+w.name, "tar/tree.tar") }

// expected is the sum of what a build with that waiting stage gives, built alone.
func (b *faultyBuild) expected(name string) string {
	b.t.Helper()
	w := b.wait(name)
	if status, stderr := w.letGo(); status != 0 {
		b.t.Fatalf("status %d\n%s", status, stderr)
	}
	b.tell("store", "prune", "--max-size", "0")
	if err := os.Remove(filepath.Join(b.dir, "lib/go-"+name)); err != nil {
		b.t.Fatal(err)
	}
	return sum(b.t, w.result())
}

// TestCleanUpDuringBuild cleans up in all ways while a build runs: what that uses stays.
func TestCleanUpDuringBuild(t *testing.T) {
	b := newFaultyBuild(t)
	b.addWaiter()
	want := b.expected("long")
	b.good("the other build")
	long := b.wait("long")
	const busy = "another ossify uses the store"
	type checkpoint struct{ ID, Pipeline, Stage string }
	var list []checkpoint
	if err := json.Unmarshal([]byte(b.tell("store", "ls", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	rounds := 1
	if everyFault() {
		rounds = 5
	}
	for range rounds {
		b.refused(busy, "store", "prune", "--max-size", "0")
		b.refused(busy, "store", "prune", "--older-than", "0s")
		b.refused(busy, "store", "prune", "--keep-last", "0")
		for _, c := range list {
			b.refused(busy, "store", "rm", "--above", c.ID)
		}
		// Builds that cut the store down, of what is there and of new content.
		b.tell("--quiet", "--cache-max-size", "1", filepath.Join(b.dir, "m.json"))
		b.tell("--quiet", "--cache-max-size", "0", b.write("new.json", strings.ReplaceAll(killManifest, "killed", fmt.Sprintf("new%d", time.Now().UnixNano())), 0o644))
		// What a killed build has left goes, when the next command opens the store.
		dead := b.wait("dead")
		dead.kill()
		until(t, "the killed build is gone", func() bool { return len(processes(b.dir+"/dead.json")) == 0 })
		b.tell("store", "ls")
		until(t, "what the killed build left is gone", func() bool {
			b.tell("store", "ls")
			engines, _ := filepath.Glob(filepath.Join(b.store, "run/engine-*"))
			return len(engines) == 1
		})
	}
	if status, stderr := long.letGo(); status != 0 {
		t.Fatalf("status %d\n%s", status, stderr)
	}
	if got := sum(t, long.result()); got != want {
		t.Errorf("the result is %s, want %s", got, want)
	}
	left(t, b.store)
	if out := b.tell(b.waitArgs("long")...); ran(t, out) != 0 {
		t.Errorf("what was built is not there:\n%s", out)
	}
	b.tell("store", "prune", "--max-size", "0")
	left(t, b.store)
	b.good("the build afterwards")
}

// process is one that a build has started, or its own first one.
type process struct {
	pid, parent int
	command     string
}

// descendants lists the process and what it has started, parents first.
func descendants(pid int) []process {
	children := map[int][]process{}
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// The name in parentheses can have anything in it.
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		p := process{}
		p.pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(path)))
		p.parent, _ = strconv.Atoi(fields[1])
		if fields[0] == "Z" {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		p.command = strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " ")
		children[p.parent] = append(children[p.parent], p)
	}
	all := []process{{pid: pid, command: "ossify"}}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i].pid]...)
	}
	return all
}

// TestOutOfMemory kills single processes of a build, as the kernel does when there is no
// memory: the stage, and all others one after the other.
func TestOutOfMemory(t *testing.T) {
	b := newFaultyBuild(t)
	b.addWaiter()
	want := b.expected("oom")
	isStage := func(p process) bool { return strings.Contains(p.command, "/run/osbuild/bin/org.test.wait") }
	settled := func(w *waiting) []process {
		// The next stage's container is being made meanwhile.
		var all []process
		until(t, "the processes are all there", func() bool {
			before := all
			all = descendants(w.cmd.Process.Pid)
			all = slices.DeleteFunc(all, func(p process) bool { return p.command == "sleep 0.05" })
			time.Sleep(100 * time.Millisecond)
			return len(before) == len(all) && slices.ContainsFunc(all, isStage)
		})
		return all
	}
	round := func(n int) (count int) {
		w := b.wait("oom")
		all := settled(w)
		if n >= len(all) {
			w.kill()
			waitGone(t, b.store)
			return len(all)
		}
		victim := all[n]
		if err := syscall.Kill(victim.pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		status, stderr := w.letGo()
		waitGone(t, b.store)
		t.Logf("%q: status %d %s", victim.command, status, stderr)
		switch {
		case isStage(victim):
			if status != 1 || !strings.Contains(stderr, `pipeline "tree": stage 1 (org.test.wait) failed: killed by signal 9`) {
				t.Errorf("the stage: status %d\n%s", status, stderr)
			}
		case n == 0: // it cannot say anything
		case status == 0:
			if got := sum(t, w.result()); got != want {
				t.Errorf("%q: the result is %s, want %s", victim.command, got, want)
			}
		case !strings.Contains(stderr, "ossify: ") || !strings.Contains(stderr, "killed") || crash.MatchString(stderr):
			t.Errorf("%q: status %d\n%s", victim.command, status, stderr)
		}
		// The next one is right, and nothing is left.
		b.tell(b.waitArgs("oom")...)
		if got := sum(t, w.result()); got != want {
			t.Errorf("after %q: the result is %s, want %s", victim.command, got, want)
		}
		left(t, b.store)
		b.tell("store", "prune", "--max-size", "0")
		if err := os.Remove(filepath.Join(b.dir, "lib/go-oom")); err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	for n, count := 0, 1; n < count; n++ {
		count = round(n)
	}
}

// eight are manifests that share pipelines and the beginnings of others: number i of a
// round. distinct is how many stages they have together.
func eight(round int) (manifests []string, distinct int) {
	noop := func(what string, n int) string {
		return fmt.Sprintf(`{"type": "org.osbuild.noop", "options": {"round": %d, "what": "%s", "n": %d}}`, round, what, n)
	}
	stages := map[string]bool{}
	for i := range 8 {
		pipelines := []string{}
		add := func(name string, prefix string, list ...string) {
			for _, s := range list {
				prefix += s
				stages[prefix] = true
			}
			pipelines = append(pipelines, fmt.Sprintf(`{"name": "%s", "source-epoch": 1700000000, "stages": [%s]}`, name, strings.Join(list, ", ")))
		}
		hostname := fmt.Sprintf(`{"type": "org.osbuild.hostname", "options": {"hostname": "round%d"}}`, round)
		etc := `{"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/etc"}]}}`
		tar := `{"type": "org.osbuild.tar", "options": {"filename": "tree.tar"},
			"inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:shared"]}}}`
		add("shared", "", etc, hostname, noop("shared", 1), noop("shared", 2))
		add("pair", "", etc, noop("prefix", 1), noop(fmt.Sprint("pair", i/2), 1), noop("same", 1))
		add("own", "", etc, noop("prefix", 1), noop(fmt.Sprint("own", i), 1), noop("same", 1))
		add("tar", fmt.Sprint("tar", round), tar)
		if i%2 == 1 { // the same in another order
			slices.Reverse(pipelines[:3])
		}
		manifests = append(manifests, fmt.Sprintf(`{"version": "2", "pipelines": [%s]}`, strings.Join(pipelines, ", ")))
	}
	return manifests, len(stages)
}

// TestEight runs eight builds at once on one store, which share some stages: each stage
// runs once, and they give the same result.
func TestEight(t *testing.T) {
	b := newFaultyBuild(t)
	rounds := 2
	if everyFault() {
		rounds = 20
	}
	known := 0
	for round := range rounds {
		if round%5 == 0 { // a store that is not there yet
			if out, err := exec.Command(b.args[0], "unshare", "rm", "-rf", b.store).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			known = 0
		}
		manifests, want := eight(round)
		want -= known
		known = 1 // all rounds have /etc
		var wait sync.WaitGroup
		outs, statuses, errs := make([]strings.Builder, 8), make([]int, 8), make([]string, 8)
		for i, text := range manifests {
			manifest := b.write(fmt.Sprintf("eight-%d.json", i), text, 0o644)
			cmd := b.on("--checkpoint", "*", "--export", "tar", "--output-directory", filepath.Join(b.dir, fmt.Sprint("eight-", i)), manifest)
			cmd.Stdout = &outs[i]
			wait.Go(func() { statuses[i], errs[i] = b.run(fmt.Sprintf("round %d: build %d", round, i), cmd) })
		}
		wait.Wait()
		if t.Failed() {
			t.FailNow()
		}
		total, result := 0, ""
		for i := range manifests {
			if statuses[i] != 0 {
				t.Fatalf("round %d: build %d: status %d\n%s", round, i, statuses[i], errs[i])
			}
			total += ran(t, outs[i].String())
			got := sum(t, filepath.Join(b.dir, fmt.Sprint("eight-", i), "tar/tree.tar"))
			if result == "" {
				result = got
			}
			if got != result {
				t.Errorf("round %d: build %d has made %s, others %s", round, i, got, result)
			}
		}
		if total != want {
			t.Errorf("round %d: %d stages ran, want %d", round, total, want)
		}
		left(t, b.store)
		if t.Failed() {
			t.FailNow()
		}
	}
}
