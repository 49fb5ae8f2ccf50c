package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kills is how often a test ends a build: n times, or what OSSIFY_TEST_KILLS says.
func kills(t *testing.T, n int) int {
	t.Helper()
	if s := os.Getenv("OSSIFY_TEST_KILLS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// kill starts a build and ends it with SIGKILL within the time that it takes; in
// odd rounds its whole process group. It says whether the build was not over.
func kill(t *testing.T, build *exec.Cmd, round int, whole time.Duration) bool {
	t.Helper()
	build.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(rand.Int64N(int64(whole))))
	pid := build.Process.Pid
	if round%2 == 1 {
		pid = -pid
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	return build.Wait() != nil
}

// killManifest makes trees, an input and an export within about a second.
const killManifest = `{"version": "2", "pipelines": [
  {"name": "tree", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/etc"}, {"path": "/data"}]}},
    {"type": "org.osbuild.hostname", "options": {"hostname": "killed"}},
    {"type": "org.osbuild.noop", "options": {"n": 1}},
    {"type": "org.osbuild.noop", "options": {"n": 2}},
    {"type": "org.osbuild.chmod", "options": {"items": {"/etc/hostname": {"mode": "a+r"}}}}]},
  {"name": "tar", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.tar", "options": {"filename": "tree.tar"},
     "inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}}}]}]}`

// TestKill ends builds with SIGKILL, alternately the engine and its whole
// process group, at random moments, and sees that the next one succeeds, gives
// the same bytes and finds and leaves nothing behind.
func TestKill(t *testing.T) {
	dir := workDir(t)
	ossify := program(t)
	manifest := filepath.Join(dir, "m.json")
	if err := os.WriteFile(manifest, []byte(killManifest), 0o644); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "store")
	build := func() *exec.Cmd {
		return exec.Command(ossify, "--quiet", "--store", store, "--export", "tar", "--output-directory", filepath.Join(dir, "out"), manifest)
	}
	clean := func() {
		if out, err := exec.Command(ossify, "unshare", "rm", "-rf", filepath.Join(store, "storage"), filepath.Join(dir, "out")).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	var whole time.Duration
	for range 2 { // the first one also fills what clean leaves
		clean()
		start := time.Now()
		if out, err := build().CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		whole = time.Since(start)
	}
	result := filepath.Join(dir, "out", "tar", "tree.tar")
	want := sum(t, result)

	n := kills(t, 20)
	killed := 0
	for i := range n {
		clean()
		if kill(t, build(), i, whole) {
			killed++
		}
		waitGone(t, store)
		if out, err := build().CombinedOutput(); err != nil {
			t.Fatalf("round %d: the build after the kill: %v\n%s", i, err, out)
		}
		if got := sum(t, result); got != want {
			t.Errorf("round %d: the result is %s, want %s", i, got, want)
		}
		left(t, store)
	}
	t.Logf("%d of %d builds were killed before their end", killed, n)
}

// TestStageDiesWithEngine kills an engine whose stage would go on for hours.
func TestStageDiesWithEngine(t *testing.T) {
	dir := workDir(t)
	// The argument tells this test's process from others.
	argument := "54321." + strconv.Itoa(os.Getpid())
	for name, text := range map[string]string{
		"lib/stages/org.test.sleep":           "#!/bin/sh\nsleep " + argument + " &\nexec sleep " + argument + "\n",
		"lib/stages/org.test.sleep.meta.json": `{"summary": "Sleep", "description": [], "schema": {}}`,
		"m.json":                              `{"version": "2", "pipelines": [{"name": "tree", "stages": [{"type": "org.test.sleep"}]}]}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program(t), "--quiet", "--store", filepath.Join(dir, "store"), "--libdir", filepath.Join(dir, "lib"), filepath.Join(dir, "m.json"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until := func(what string, n int) {
		t.Helper()
		for range 1000 {
			if len(processes(argument)) == n {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s: %q", what, processes(argument))
	}
	until("the stage does not start", 2)
	_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait()
	until("the stage outlives the engine", 0)
}

// processes lists those of this user that have the store's path on their command line.
func processes(store string) []string {
	var found []string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), store) && isOurs(filepath.Dir(path)) {
			found = append(found, strings.ReplaceAll(string(data), "\x00", " "))
		}
	}
	return found
}

// isOurs says whether a process is of this user, or of one of the user's subordinate ids; other users may run
// the same tests.
func isOurs(proc string) bool {
	info, err := os.Stat(proc)
	if err != nil {
		return false
	}
	uid := int64(info.Sys().(*syscall.Stat_t).Uid)
	if uid == int64(os.Getuid()) {
		return true
	}
	me, err := user.Current()
	if err != nil {
		return true
	}
	ranges, _ := os.ReadFile("/etc/subuid")
	for line := range strings.Lines(string(ranges)) {
		var first, n int64
		if text, ok := strings.CutPrefix(line, me.Username+":"); ok {
			if _, err := fmt.Sscanf(text, "%d:%d", &first, &n); err == nil && uid >= first && uid < first+n {
				return true
			}
		}
	}
	return false
}

// waitGone waits until the processes of a killed build are gone and its locks
// are free, which the kernel does on its own, but not at once.
func waitGone(t *testing.T, store string) {
	t.Helper()
	for range 1000 {
		if len(processes(store)) == 0 && !locked(store) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("still running: %q", processes(store))
}

// locked says whether a build holds the lock of its folder.
func locked(store string) bool {
	paths, _ := filepath.Glob(filepath.Join(store, "run/engine-*/lock"))
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		f.Close()
		if err != nil {
			return true
		}
	}
	return false
}

// left sees that nothing of a build is left but its checkpoints.
func left(t *testing.T, store string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), store) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
	for _, pattern := range []string{"run/engine-*", "lib/.*", "digests/.tmp*"} {
		if paths, _ := filepath.Glob(filepath.Join(store, pattern)); len(paths) > 0 {
			t.Errorf("left: %q", paths)
		}
	}
	data, err := os.ReadFile(filepath.Join(store, "storage/overlay-layers/layers.json"))
	if err != nil {
		t.Fatal(err)
	}
	var layers []struct {
		ID    string
		Names []string
	}
	if err := json.Unmarshal(data, &layers); err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, l := range layers {
		named[l.ID] = len(l.Names) > 0
	}
	dirs, err := filepath.Glob(filepath.Join(store, "storage/overlay/*/diff"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if id := filepath.Base(filepath.Dir(dir)); !named[id] {
			t.Errorf("layer %s has no name", id)
		}
	}
	if len(dirs) != len(layers) {
		t.Errorf("%d layers on disk, %d known", len(dirs), len(layers))
	}
}
