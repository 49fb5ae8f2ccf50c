package test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kills is how often TestKill ends a build; OSSIFY_TEST_KILLS makes it more.
const kills = 20

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
		cmd := exec.Command(ossify, "--quiet", "--store", store, "--export", "tar", "--output-directory", filepath.Join(dir, "out"), manifest)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return cmd
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

	n := kills
	if s := os.Getenv("OSSIFY_TEST_KILLS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	killed := 0
	for i := range n {
		clean()
		cmd := build()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(whole))))
		pid := cmd.Process.Pid
		if i%2 == 1 {
			pid = -pid
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
		if err := cmd.Wait(); err != nil {
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

// processes lists those that have the store's path on their command line.
func processes(store string) []string {
	var found []string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), store) {
			found = append(found, strings.ReplaceAll(string(data), "\x00", " "))
		}
	}
	return found
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
	// One layer for each of the six stages, one for the build root.
	layers, err := filepath.Glob(filepath.Join(store, "storage/overlay/*/diff"))
	if err != nil || len(layers) != 7 {
		t.Errorf("%d layers, want 7 (%v)", len(layers), err)
	}
}
