package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ossify/ossify/store"
	"github.com/ossify/ossify/test/namespace"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	namespace.Main(m, func() error {
		if dir := os.Getenv("OSSIFY_TEST_CRASH"); dir != "" {
			crash(dir)
		}
		return nil
	})
}

// crash dies in the middle of making a layer, as an engine does that is killed.
func crash(dir string) {
	s, err := store.Open(dir, "")
	if err != nil {
		panic(err)
	}
	l, err := s.Create(nil, "crash", store.Origin{})
	if err != nil {
		panic(err)
	}
	if _, err := s.Create(l, "crash", store.Origin{}); err != nil {
		panic(err)
	}
	if _, _, err := s.Scratch("crash-"); err != nil {
		panic(err)
	}
	if _, err := s.LockStage(context.Background(), "crash", nil); err != nil {
		panic(err)
	}
	os.Exit(9)
}

func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fill makes a layer on base with one more file in it.
func fill(t *testing.T, s *store.Store, base *store.Layer, name, key string) *store.Layer {
	t.Helper()
	l, err := s.Create(base, key, store.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	stack, err := s.Writable(l)
	if err != nil {
		t.Fatal(err)
	}
	target := tempDir(t)
	unmount, err := stack.Mount(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(target, name), []byte(name), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unmount(); err != nil {
		t.Fatal(err)
	}
	return l
}

// list returns the names in a layer's tree.
func list(t *testing.T, s *store.Store, l *store.Layer) string {
	t.Helper()
	stack, err := s.ReadOnly(l)
	if err != nil {
		t.Fatal(err)
	}
	target := tempDir(t)
	unmount, err := stack.Mount(target)
	if err != nil {
		t.Fatal(err)
	}
	defer unmount()
	entries, err := os.ReadDir(target)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestCheckpoints(t *testing.T) {
	dir := tempDir(t)
	s := open(t, dir)
	a := fill(t, s, nil, "a", "k1")
	if err := s.Commit(a, "stage-a", nil, []byte(`{"x":1}`)); err != nil {
		t.Fatal(err)
	}
	b := fill(t, s, a, "b", "k2")
	if err := s.Commit(b, "stage-b", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir)
	defer s.Close()
	got, err := s.Find("stage-b", "k2")
	if err != nil || got == nil {
		t.Fatalf("stage-b: %v, %v", got, err)
	}
	if names := list(t, s, got); names != "a b" {
		t.Errorf("tree holds %q", names)
	}
	if other, err := s.Find("stage-b", "another key"); err != nil || other != nil {
		t.Errorf("found with another key: %v, %v", other, err)
	}
	if none, err := s.Find("stage-c", "k2"); err != nil || none != nil {
		t.Errorf("found what is not there: %v, %v", none, err)
	}
	got, _ = s.Find("stage-a", "k1")
	if meta, err := s.Metadata(got); err != nil || string(meta) != `{"x":1}` {
		t.Errorf("metadata %s, %v", meta, err)
	}
}

// TestReplace sees that a checkpoint made anew takes the name over, and that
// what stands on the old one stays usable.
func TestReplace(t *testing.T) {
	dir := tempDir(t)
	s := open(t, dir)
	old := fill(t, s, nil, "old", "k1")
	top := fill(t, s, old, "top", "k1")
	for name, l := range map[string]*store.Layer{"base": old, "top": top} {
		if err := s.Commit(l, name, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Commit(fill(t, s, nil, "new", "k2"), "base", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	base, err := s.Find("base", "k2")
	if err != nil || base == nil {
		t.Fatalf("base: %v, %v", base, err)
	}
	if names := list(t, s, base); names != "new" {
		t.Errorf("base holds %q", names)
	}
	kept, err := s.Find("top", "k1")
	if err != nil || kept == nil {
		t.Fatalf("top: %v, %v", kept, err)
	}
	if names := list(t, s, kept); names != "old top" {
		t.Errorf("top holds %q", names)
	}
}

func TestCrashIsSwept(t *testing.T) {
	dir := tempDir(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "OSSIFY_TEST_CRASH="+dir)
	// As an engine has; what it has mounted goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 9 {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := layers(t, dir); n != 2 {
		t.Fatalf("the crash left %d layers, want 2", n)
	}
	live := open(t, dir)
	unlock, err := live.LockStage(context.Background(), "crash", func() { t.Error("a dead build's lock holds") })
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	unnamed := fill(t, live, nil, "x", "k")
	second := open(t, dir) // must not sweep the layer of the first
	if names := list(t, live, unnamed); names != "x" {
		t.Errorf("layer of a live build holds %q", names)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if n := layers(t, dir); n != 1 {
		t.Errorf("%d layers, want only the live one", n)
	}
	if err := live.Close(); err != nil {
		t.Error(err)
	}
	if err := open(t, dir).Close(); err != nil {
		t.Error(err)
	}
	if n := layers(t, dir); n != 0 {
		t.Errorf("%d layers are left", n)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "engine-") {
			t.Errorf("run folder %s is left", e.Name())
		}
	}
}

func layers(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "storage", "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if len(e.Name()) == 64 {
			n++
		}
	}
	return n
}

func TestFailedLayer(t *testing.T) {
	dir := tempDir(t)
	s := open(t, dir)
	if err := s.KeepFailed(fill(t, s, nil, "x", "k"), "os"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir)
	if n := layers(t, dir); n != 1 {
		t.Errorf("%d layers, want the failed one", n)
	}
	if err := s.KeepFailed(fill(t, s, nil, "y", "k"), "os"); err != nil {
		t.Fatal(err)
	}
	if n := layers(t, dir); n != 1 {
		t.Errorf("%d layers, want only that of the second failure", n)
	}
	if err := s.ForgetFailed("os"); err != nil {
		t.Error(err)
	}
	if err := s.ForgetFailed("os"); err != nil {
		t.Error("second time:", err)
	}
	if n := layers(t, dir); n != 0 {
		t.Errorf("%d layers are left", n)
	}
	s.Close()
}

// TestRootDirectory: a layer has its base's root directory, as it is at last.
func TestRootDirectory(t *testing.T) {
	s := open(t, tempDir(t))
	defer s.Close()
	base := fill(t, s, nil, "x", "k")
	l, err := s.Create(base, "k", store.Origin{}) // while a stage still works on the base
	if err != nil {
		t.Fatal(err)
	}
	upper, err := s.Upper(base)
	if err != nil {
		t.Fatal(err)
	}
	past := time.Unix(1000, 0)
	if err := errors.Join(os.Chown(upper, 7, 8), os.Chmod(upper, 0o750|os.ModeSetgid), unix.Setxattr(upper, "user.test", []byte("v"), 0),
		unix.Setxattr(upper, "user.overlay.opaque", []byte("y"), 0), os.Chtimes(upper, past, past)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Seal(base, nil, time.Time{}), s.Inherit(l, base)); err != nil {
		t.Fatal(err)
	}
	if upper, err = s.Upper(l); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(upper, &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 7 || st.Gid != 8 || st.Mode&0o7777 != 0o2750 || st.Mtim.Sec != 1000 {
		t.Errorf("%d:%d %o %d", st.Uid, st.Gid, st.Mode, st.Mtim.Sec)
	}
	value := make([]byte, 10)
	if n, err := unix.Getxattr(upper, "user.test", value); err != nil || string(value[:n]) != "v" {
		t.Errorf("attribute: %q, %v", value, err)
	}
	if _, err := unix.Getxattr(upper, "user.overlay.opaque", value); !errors.Is(err, unix.ENODATA) {
		t.Errorf("overlay's mark: %v", err)
	}
}

func TestClampAndExport(t *testing.T) {
	dir := tempDir(t)
	s := open(t, dir)
	defer s.Close()
	l := fill(t, s, nil, "file", "k")
	epoch := int64(1000)
	if err := s.Commit(l, "clamped", &epoch, nil); err != nil {
		t.Fatal(err)
	}
	upper, err := s.Upper(l)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(upper, "file"))
	if err != nil || fi.ModTime().Unix() != epoch || fi.ModTime().Nanosecond() != 0 {
		t.Errorf("time is %v, %v", fi.ModTime(), err)
	}
	out := tempDir(t)
	for range 2 {
		done, err := s.Export(l, out, store.ExportOptions{})
		if err != nil || len(done.Files) != 1 {
			t.Fatalf("%v, %v", done, err)
		}
	}
	exported := filepath.Join(out, "file")
	before, _ := os.Stat(exported)
	if _, err := s.Export(l, out, store.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	after, _ := os.Stat(exported)
	if !os.SameFile(before, after) {
		t.Error("an unchanged export was written again")
	}
	if err := os.WriteFile(exported, []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Export(l, out, store.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(exported); string(data) != "file" {
		t.Errorf("a changed export stays: %q", data)
	}
}

func TestShrink(t *testing.T) {
	dir := tempDir(t)
	s := open(t, dir)
	defer s.Close()
	content := map[string]string{}
	checkpoint := func(base *store.Layer, name string) *store.Layer {
		l := fill(t, s, base, name, "k")
		upper, err := s.Upper(l)
		if err != nil {
			t.Fatal(err)
		}
		content[name] = filepath.Join(upper, "big")
		if err := os.WriteFile(content[name], make([]byte, 100_000), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(l, name, nil, nil); err != nil {
			t.Fatal(err)
		}
		return l
	}
	checkpoint(checkpoint(checkpoint(nil, "a"), "b"), "c")
	checkpoint(nil, "old")
	// The use of c is one of a and b, too.
	if _, err := s.Find("c", "k"); err != nil {
		t.Fatal(err)
	}
	kind := filepath.Join(s.Sources(), "org.osbuild.files")
	if err := os.Mkdir(kind, 0o755); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour)
	for _, name := range []string{"sha256:used", "sha256:not"} {
		content[name] = filepath.Join(kind, name)
		if err := os.WriteFile(content[name], make([]byte, 100_000), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(content[name], past, past); err != nil {
			t.Fatal(err)
		}
	}
	s.MarkSourceUsed("sha256:used")
	if st, err := os.Stat(content["sha256:used"]); err != nil || !st.ModTime().Equal(past) {
		t.Errorf("the mark of use has changed the time of change: %v, %v", st, err)
	}

	other := open(t, dir)
	if done, err := s.Shrink(0); err != nil || !done.Busy {
		t.Fatalf("beside another engine: %+v, %v", done, err)
	}
	other.Close()
	for _, step := range []struct {
		max  int64
		want string
	}{
		{1_000_000, "a b c old sha256:not sha256:used"},
		{560_000, "a b c old sha256:used"},
		{460_000, "a b c sha256:used"},
		{360_000, "a b sha256:used"},
		{0, ""},
	} {
		if _, err := s.Shrink(step.max); err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, name := range []string{"a", "b", "c", "old", "sha256:not", "sha256:used"} {
			if _, err := os.Stat(content[name]); err == nil {
				left = append(left, name)
			}
		}
		if got := strings.Join(left, " "); got != step.want {
			t.Errorf("at most %d bytes leave %q, want %q", step.max, got, step.want)
		}
	}
}

// TestTimes sees which times a source-epoch replaces: those since the layer was
// made, or since something was downloaded for it.
func TestTimes(t *testing.T) {
	s := open(t, tempDir(t))
	defer s.Close()
	epoch := int64(1500000000)
	hour := time.Now().Add(-time.Hour)
	times := map[string]time.Time{
		"old": time.Unix(1000000000, 0), "hour": hour, "now": time.Now(), "future": time.Now().Add(time.Hour),
	}
	for name, c := range map[string]struct {
		since func(l *store.Layer) time.Time
		fixed string
	}{
		"made":       {func(l *store.Layer) time.Time { return l.Made }, "future now"},
		"downloaded": {func(*store.Layer) time.Time { return hour }, "future hour now"},
	} {
		l := fill(t, s, nil, "now", "k")
		upper, err := s.Upper(l)
		if err != nil {
			t.Fatal(err)
		}
		for name, at := range times {
			path := filepath.Join(upper, name)
			if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Chtimes(path, at, at)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Seal(l, &epoch, c.since(l)); err != nil {
			t.Fatal(err)
		}
		var fixed []string
		for _, file := range []string{"future", "hour", "now", "old"} {
			fi, err := os.Stat(filepath.Join(upper, file))
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case fi.ModTime().Equal(time.Unix(epoch, 0)):
				fixed = append(fixed, file)
			case !fi.ModTime().Equal(times[file]):
				t.Errorf("%s: %s has the time %v", name, file, fi.ModTime())
			}
		}
		if got := strings.Join(fixed, " "); got != c.fixed {
			t.Errorf("%s: fixed are %q, want %q", name, got, c.fixed)
		}
	}
}

// TestRoot sees that the root directory stays as a stage has left it.
func TestRoot(t *testing.T) {
	s := open(t, tempDir(t))
	defer s.Close()
	l := change(t, s, nil, "first", `echo x >x; chown 5:6 .; chmod 2711 .; setfattr -n user.note -v root .; setfacl -m u:7:r-x .; touch -d @1000000000 .`)
	l = change(t, s, l, "second", `true`)
	l = change(t, s, l, "third", `echo y >x`)
	stack, err := s.ReadOnly(l)
	if err != nil {
		t.Fatal(err)
	}
	target := tempDir(t)
	unmount, err := stack.Mount(target)
	if err != nil {
		t.Fatal(err)
	}
	defer unmount()
	out, err := exec.Command("sh", "-c", `cd "$1" && stat -c '%a %u:%g %Y' . && getfattr --only-values -n user.note . && getfacl -n . | grep user:7`, "sh", target).CombinedOutput()
	if want := "2751 5:6 1000000000\nrootuser:7:r-x\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
}

func TestLockStage(t *testing.T) {
	s := open(t, tempDir(t))
	defer s.Close()
	unlock, err := s.LockStage(context.Background(), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan bool, 1)
	got := make(chan bool)
	go func() {
		second, err := s.LockStage(context.Background(), "x", func() { waiting <- true })
		if err != nil {
			t.Error(err)
			return
		}
		got <- true
		second()
	}()
	<-waiting
	select {
	case <-got:
		t.Error("locked twice")
	default:
	}
	other, err := s.LockStage(context.Background(), "y", func() { t.Error("another stage is locked") })
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := s.LockStage(ctx, "x", cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while waiting: %v", err)
	}
	unlock()
	<-got
	// The wait that was given up keeps nothing locked.
	last, err := s.LockStage(context.Background(), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	last()
}

// TestForeignMounts: what others have mounted in a folder of the store is not
// removed with it.
func TestForeignMounts(t *testing.T) {
	precious := tempDir(t)
	file := filepath.Join(precious, "sub/file")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	s := open(t, dir)
	var removes []func() error
	for range 2 {
		scratch, remove, err := s.Scratch("test-")
		if err != nil {
			t.Fatal(err)
		}
		removes = append(removes, remove)
		for _, sub := range []string{"a", "a/b", "c"} {
			err = errors.Join(err, os.Mkdir(filepath.Join(scratch, sub), 0o755))
		}
		bind := func(sub string) {
			err = errors.Join(err, unix.Mount(precious, filepath.Join(scratch, sub), "", unix.MS_BIND, ""))
		}
		bind("a/b")
		bind("c")
		bind("a") // hides a/b
		bind("a/sub")
		bind("a")
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := removes[0](); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "run/*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("mounts are left: %v\n%s", err, mounts)
	}
}

func TestLongChain(t *testing.T) {
	dir := tempDir(t)
	s := open(t, dir)
	defer s.Close()
	var base *store.Layer
	for i := range 150 {
		l := fill(t, s, base, fmt.Sprintf("f%03d", i), "k")
		if err := s.Commit(l, fmt.Sprintf("s%d", i), nil, nil); err != nil {
			t.Fatal(err)
		}
		base = l
	}
	if n := len(strings.Fields(list(t, s, base))); n != 150 {
		t.Errorf("tree has %d files, want 150", n)
	}
}

// TestRemains: what killed engines leave beside layers goes with Prune.
func TestRemains(t *testing.T) {
	s := open(t, tempDir(t))
	defer s.Close()
	l := fill(t, s, nil, "kept", "k")
	if err := s.Commit(l, "kept", nil, nil); err != nil {
		t.Fatal(err)
	}
	links := func() int {
		paths, err := filepath.Glob(filepath.Join(s.Dir(), "storage/overlay/l/*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(paths)
	}
	before := links()
	remains := []string{"storage/overlay/compat123/lower1", "storage/overlay/metacopy-check1/l1", "storage/overlay-layers/.tmp-layers.json1", "digests/.tmp-1"}
	for _, path := range remains {
		if err := os.MkdirAll(filepath.Join(s.Dir(), path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../gone/diff", filepath.Join(s.Dir(), "storage/overlay/l/GONE")); err != nil {
		t.Fatal(err)
	}
	hour := []unix.Timespec{unix.NsecToTimespec(time.Now().Add(-time.Hour).UnixNano()), unix.NsecToTimespec(time.Now().Add(-time.Hour).UnixNano())}
	for _, path := range []string{"storage/overlay/compat123", "storage/overlay/metacopy-check1", remains[2], remains[3], "storage/overlay/l/GONE"} {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(s.Dir(), path), hour, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Prune(store.Prune{Max: -1, Last: -1}); err != nil {
		t.Fatal(err)
	}
	for _, path := range remains {
		if _, err := os.Stat(filepath.Join(s.Dir(), path)); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	if n := links(); n != before {
		t.Errorf("%d links, want %d", n, before)
	}
	if found, err := s.Find("kept", "k"); err != nil || found == nil || found.ID != l.ID {
		t.Errorf("the checkpoint is gone: %v, %v", found, err)
	}
}
