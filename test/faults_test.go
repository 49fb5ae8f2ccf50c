package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// everyFault says whether all faults are wanted, not a sample of them.
func everyFault() bool { return os.Getenv("OSSIFY_TEST_FAULTS") != "" }

// spread returns n of the points, evenly spread.
func spread[T any](points []T, n int) []T {
	if len(points) <= n {
		return points
	}
	some := make([]T, n)
	for i := range some {
		some[i] = points[(2*i+1)*len(points)/(2*n)]
	}
	return some
}

// hang is how long a small build may take until it is said to hang.
const hang = 2 * time.Minute

// faultyBuild is a small build with a store of its own, whose result is known.
type faultyBuild struct {
	t          *testing.T
	dir, store string
	args       []string
	want       string
	// removed is what of the store is removed before a build with a fault, besides what
	// prune removes if pruned is set.
	removed string
	pruned  bool
}

func newFaultyBuild(t *testing.T) *faultyBuild {
	t.Helper()
	b := &faultyBuild{t: t, dir: workDir(t)}
	b.store = filepath.Join(b.dir, "store")
	b.removed = filepath.Join(b.store, "storage")
	manifest := filepath.Join(b.dir, "m.json")
	if err := os.WriteFile(manifest, []byte(killManifest), 0o644); err != nil {
		t.Fatal(err)
	}
	b.args = []string{program(t), "--quiet", "--store", b.store, "--export", "tar", "--output-directory", filepath.Join(b.dir, "out"), manifest}
	b.good("the first build")
	b.want = sum(t, b.result())
	return b
}

func (b *faultyBuild) result() string { return filepath.Join(b.dir, "out/tar/tree.tar") }

// run runs a command; one that hangs ends the test.
func (b *faultyBuild) run(what string, cmd *exec.Cmd) (status int, stderr string) {
	b.t.Helper()
	var text bytes.Buffer
	cmd.Stderr = &text
	// What holds the other end of standard error shall not keep the test.
	cmd.WaitDelay = hang
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	timer := time.AfterFunc(hang, func() {
		text := fmt.Sprintf("%s hangs: %q\n", what, processes(b.dir))
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		b.t.Error(text)
	})
	err := cmd.Wait()
	if !timer.Stop() {
		b.t.FailNow()
	}
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		b.t.Fatalf("%s: %v\n%s", what, err, &text)
	}
	return cmd.ProcessState.ExitCode(), text.String()
}

// good builds, which must succeed, and sees that nothing is left and the result is right.
func (b *faultyBuild) good(what string) {
	b.t.Helper()
	if status, stderr := b.run(what, exec.Command(b.args[0], b.args[1:]...)); status != 0 {
		b.t.Fatalf("%s: status %d\n%s", what, status, stderr)
	}
	if got := sum(b.t, b.result()); b.want != "" && got != b.want {
		b.t.Errorf("%s: the result is %s, want %s", what, got, b.want)
	}
	left(b.t, b.store)
}

// faulty builds anew while the fault happens.
func (b *faultyBuild) faulty(f fault) (status int, stderr string, s seen) {
	b.t.Helper()
	if b.pruned {
		b.empty(f.String())
	}
	script := fmt.Sprintf(`rm -rf '%s' '%s' && exec "$@"`, b.removed, filepath.Join(b.dir, "out"))
	report := filepath.Join(b.dir, "seen")
	status, stderr = b.run(f.String(), watchedCommand(b.t, f, report, script, b.args...))
	data, err := os.ReadFile(report)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil || status == watcherFailed {
		b.t.Fatalf("%s: status %d, %v\n%s\n%q", f, status, err, stderr, processes(b.dir))
	}
	if err := os.Remove(report); err != nil {
		b.t.Fatal(err)
	}
	return status, stderr, s
}

// points are the faults, each at every time that one of the calls is made.
func (b *faultyBuild) points(calls []string, errnos ...syscall.Errno) []fault {
	b.t.Helper()
	status, stderr, s := b.faulty(fault{Calls: calls})
	if status != 0 {
		b.t.Fatalf("status %d\n%s", status, stderr)
	}
	b.t.Logf("calls: %v", s.Counts)
	var points []fault
	for _, call := range calls {
		for n := range s.Counts[call] {
			for _, errno := range errnos {
				points = append(points, fault{Calls: []string{call}, Call: call, N: n + 1, Errno: errno})
			}
		}
	}
	return points
}

// crash is what an error that is our own fault says.
var crash = regexp.MustCompile(`(?m)^(panic|goroutine|fatal error|runtime)\b|internal error|SIGSEGV|nil pointer`)

// check builds with the fault and sees that either the result is right, or an error says
// what is wrong, and that the next build is not worse for it. It says whether the fault met
// anything, and how the build ended.
func (b *faultyBuild) check(f fault) (hit bool, status int) {
	b.t.Helper()
	status, stderr, s := b.faulty(f)
	waitGone(b.t, b.store)
	switch {
	case status == 0 && f.Errno == 0 && s.Hit != "":
		b.t.Errorf("%s (%s): the build has not noticed", f, s.Hit)
	case status == 0:
		if got := sum(b.t, b.result()); got != b.want {
			b.t.Errorf("%s (%s): the build succeeds, but the result is %s, want %s", f, s.Hit, got, b.want)
		}
	case s.Hit == "":
		b.t.Errorf("%s has not happened, but the status is %d\n%s", f, status, stderr)
	case f.Errno == 0 && s.First: // it cannot say anything any more
	case len(strings.TrimSpace(stderr)) == 0:
		b.t.Errorf("%s (%s): status %d without an error", f, s.Hit, status)
	case crash.MatchString(stderr):
		b.t.Errorf("%s (%s): status %d\n%.3000s", f, s.Hit, status, stderr)
	}
	if testing.Verbose() {
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		b.t.Logf("%s (%.60s): status %d %.600s", f, s.Hit, status, lines[len(lines)-1])
	}
	b.good("the build after " + f.String())
	return s.Hit != "", status
}

// TestKillPoints kills processes of a build, its engine or a child, just before they make a
// system call that changes what outlives them.
func TestKillPoints(t *testing.T) {
	b := newFaultyBuild(t)
	calls := []string{
		"fsync", "fdatasync", "syncfs", "renameat", "renameat2", "mount", "move_mount", "open_tree", "fsmount", "umount2",
		"mkdirat", "unlinkat", "symlinkat", "linkat", "fchownat", "fchmodat", "setxattr", "lsetxattr", "utimensat", "ftruncate", "write",
	}
	total, hits, failed := 0, 0, 0
	for _, c := range []struct {
		removed       string
		pruned        bool
		some, thereof int
	}{
		{b.removed, false, 12, math.MaxInt},
		{b.store, false, 4, 300},
		{"", true, 4, 300},
	} {
		b.removed, b.pruned = c.removed, c.pruned
		if everyFault() {
			c.some = c.thereof
		}
		points := spread(b.points(calls, 0), c.some)
		total += len(points)
		for _, f := range points {
			hit, status := b.check(f)
			if hit {
				hits++
			}
			if status != 0 {
				failed++
			}
		}
	}
	t.Logf("%d points: %d processes were killed, %d builds failed", total, hits, failed)
	if hits*10 < total*8 || failed == 0 {
		t.Errorf("of %d points %d were met, and %d builds failed", total, hits, failed)
	}
	b.empty("all")
}

// empty prunes the store and sees that then it has nothing any more, not even what killed
// builds leave in places that a start does not look at.
func (b *faultyBuild) empty(after string) {
	b.t.Helper()
	// New ones are left, as they may be of a podman that is at work.
	for _, pattern := range []string{"storage/overlay/compat*", "storage/overlay/*-check*", "storage/overlay-*/.tmp*", "storage/overlay/l/*", "digests/.tmp*"} {
		paths, err := filepath.Glob(filepath.Join(b.store, pattern))
		if err != nil {
			b.t.Fatal(err)
		}
		for _, path := range paths {
			old := unix.NsecToTimespec(time.Now().Add(-time.Hour).UnixNano())
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				b.t.Fatalf("%s: %v", path, err)
			}
		}
	}
	if status, stderr := b.run("prune after "+after, exec.Command(program(b.t), "store", "prune", "--quiet", "--max-size", "0", "--store", b.store)); status != 0 {
		b.t.Fatalf("prune after %s: status %d\n%s", after, status, stderr)
	}
	for _, pattern := range []string{"storage/overlay/[^.lt]*", "storage/overlay/*/*", "storage/overlay-*/.tmp*", "storage/overlay-*/*/*", "digests/.tmp*", "used/*", "lib/*", "run/*"} {
		paths, err := filepath.Glob(filepath.Join(b.store, pattern))
		if err != nil {
			b.t.Fatal(err)
		}
		if len(paths) > 0 {
			b.t.Errorf("%s: left: %q", after, paths)
		}
	}
}

// TestSystemCallErrors lets system calls of a build fail.
func TestSystemCallErrors(t *testing.T) {
	b := newFaultyBuild(t)
	calls := []string{
		"fsync", "fdatasync", "syncfs", "renameat", "renameat2", "write", "pwrite64", "openat", "mkdirat", "unlinkat", "symlinkat", "linkat",
		"mount", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "umount2", "fchownat", "fchown", "fchmodat", "setxattr",
		"lsetxattr", "utimensat", "ftruncate", "fallocate", "copy_file_range", "getdents64", "flock", "unshare",
	}
	byCall := map[string][]fault{}
	for _, f := range b.points(calls, syscall.EIO, syscall.ENOSPC, syscall.EINTR) {
		byCall[f.Call] = append(byCall[f.Call], f)
	}
	var points []fault
	for _, call := range calls { // of each, some points tell as much as all
		points = append(points, spread(byCall[call], 60)...)
	}
	if !everyFault() {
		points = spread(points, 20)
	}
	hits, failed := 0, 0
	for _, f := range points {
		hit, status := b.check(f)
		if hit {
			hits++
		}
		if status != 0 {
			failed++
		}
	}
	t.Logf("%d points: %d calls failed, %d builds failed", len(points), hits, failed)
	if hits*10 < len(points)*8 || failed == 0 {
		t.Errorf("of %d points %d were met, and %d builds failed", len(points), hits, failed)
	}
}

// TestFewDescriptors builds with so few descriptors that one cannot be had somewhere.
func TestFewDescriptors(t *testing.T) {
	b := newFaultyBuild(t)
	var limits []int
	for n := 12; n < 92; n++ { // the Go runtime needs some itself
		limits = append(limits, n)
	}
	if !everyFault() {
		limits = spread(limits, 6)
	}
	failed := 0
	for _, n := range limits {
		if out, err := exec.Command(b.args[0], "unshare", "rm", "-rf", b.removed).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		what := fmt.Sprintf("%d descriptors", n)
		status, stderr := b.run(what, exec.Command("sh", append([]string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, n), "sh"}, b.args...)...))
		waitGone(t, b.store)
		t.Logf("%s: status %d %.600s", what, status, stderr)
		switch {
		case status == 0:
			if got := sum(t, b.result()); got != b.want {
				t.Errorf("%s: the result is %s, want %s", what, got, b.want)
			}
		case len(strings.TrimSpace(stderr)) == 0 || crash.MatchString(stderr):
			t.Errorf("%s: status %d\n%.3000s", what, status, stderr)
		}
		if status != 0 {
			failed++
		}
		b.good("the build after " + what)
	}
	t.Logf("%d builds, %d failed", len(limits), failed)
	if failed == 0 || failed == len(limits) {
		t.Errorf("%d of %d builds failed", failed, len(limits))
	}
}
