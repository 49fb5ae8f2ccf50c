package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/sandbox"
	"golang.org/x/sys/unix"
)

func TestDescribe(t *testing.T) {
	ops := []sandbox.Op{
		sandbox.Overlay{Stack: &overlay.Stack{Lower: []string{"/a", "/b"}, Upper: "/u"}, Target: "/"},
		sandbox.Overlay{Stack: &overlay.Stack{Lower: []string{"/a"}}, Target: "/tree"},
		sandbox.Tmpfs{Target: "/tmp", Mode: 0o1777},
		sandbox.Bind{Source: "/usr", Target: "/usr"},
		sandbox.Bind{Source: "/dev/null", Target: "/dev/null", Writable: true, Devices: true, Optional: true},
		sandbox.Bind{Source: "/in/storage", Target: "/run/osbuild/inputs/storage", AsMounted: true},
		sandbox.Dir{Target: "/run/x", Mode: 0o700},
		sandbox.Dir{Target: "/var/tmp", Mode: 0o777 | os.ModeSticky},
		sandbox.File{Target: "/etc/f", Content: []byte("abc"), Mode: 0o644},
		sandbox.Symlink{To: "usr/bin", Target: "/bin"},
	}
	want := `overlay / rw (2 lower)
overlay /tree ro (1 lower)
tmpfs /tmp 1777
bind /usr <- /usr ro
bind /dev/null <- /dev/null rw optional dev
bind /run/osbuild/inputs/storage <- /in/storage as mounted
dir /run/x 0700
dir /var/tmp 1777
file /etc/f 0644 (3 bytes)
symlink /bin -> usr/bin
`
	if got := sandbox.DescribeAll(ops); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestLinksStayInside lays a container out over a tree whose folders are
// symbolic links to the host.
func TestLinksStayInside(t *testing.T) {
	outside := t.TempDir()
	for _, link := range []string{outside, "../../../../../.." + outside, "/proc/self/root" + outside} {
		root := t.TempDir()
		for _, name := range []string{"run", "etc", "usr"} {
			if err := os.Symlink(link, filepath.Join(root, name)); err != nil {
				t.Fatal(err)
			}
		}
		// Both outcomes are right, as long as nothing appears outside.
		undo, err := sandbox.Layout(root, []sandbox.Op{
			sandbox.Tmpfs{Target: "/run", Mode: 0o755},
			sandbox.File{Target: "/run/osbuild/api/arguments", Content: []byte("x"), Mode: 0o644},
			sandbox.File{Target: "/etc/passwd", Content: []byte("x"), Mode: 0o644},
			sandbox.Bind{Source: "/usr", Target: "/usr"},
		})
		if err == nil {
			if err := undo(); err != nil {
				t.Error(err)
			}
		}
		if entries, _ := os.ReadDir(outside); len(entries) != 0 {
			t.Errorf("link to %s: %s appeared outside the root", link, entries[0].Name())
		}
		detachBelow(t, root)
	}
}

// TestSwappedTargets lays out a container 10,000 times while somebody swaps a
// folder on the way, and a tree's folder that is shown, for a symbolic link.
func TestSwappedTargets(t *testing.T) {
	outside := t.TempDir()
	for _, dir := range []string{"b", "empty"} {
		if err := os.Mkdir(filepath.Join(outside, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "file"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := list(t, outside)
	root := t.TempDir()
	fresh, err := sandbox.Layout(root, []sandbox.Op{sandbox.Tmpfs{Target: "/", Mode: 0o755}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := fresh(); err != nil {
			t.Error(err)
		}
	}()
	for _, dir := range []string{"a", "tree", "tree/usr", "tree/usr/inside"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"away", "tree/away"} {
		if err := os.Symlink(outside, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	end, swaps := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-end:
				swaps <- n
				return
			default:
			}
			_ = unix.Renameat2(unix.AT_FDCWD, root+"/a", unix.AT_FDCWD, root+"/away", unix.RENAME_EXCHANGE)
			_ = unix.Renameat2(unix.AT_FDCWD, root+"/tree/usr", unix.AT_FDCWD, root+"/tree/away", unix.RENAME_EXCHANGE)
			n++
		}
	}()
	stack := &overlay.Stack{Lower: []string{root + "/tree", outside + "/empty"}}
	ops := []sandbox.Op{
		sandbox.Dir{Target: "/a/b/made", Mode: 0o777},
		sandbox.File{Target: "/a/file", Content: []byte("x"), Mode: 0o666},
		sandbox.Symlink{To: "x", Target: "/a/b/link"},
		sandbox.Tmpfs{Target: "/a/b", Mode: 0o777},
		sandbox.Bind{Source: root + "/tree", Target: "/a/b/c"},
		sandbox.Bind{Source: root + "/tree", Target: "/a/b"},
		sandbox.Bind{Within: root + "/tree", Source: "usr", Target: "/seen"},
		sandbox.Overlay{Stack: stack, Target: "/a/b"},
	}
	const rounds = 10000
	done := 0
	for i := range rounds {
		if ops[i%len(ops)].Apply(root) == nil {
			done++
		}
		if _, err := os.Lstat(root + "/seen/file"); err == nil {
			t.Fatalf("round %d: what is outside is seen inside", i)
		}
		if i%len(ops) == len(ops)-1 { // wherever it is just now
			for _, path := range []string{"/seen", "/a/b/c", "/away/b/c", "/a/b", "/away/b", "/a/b", "/away/b", "/a/b", "/away/b"} {
				_ = unix.Unmount(root+path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			}
		}
	}
	close(end)
	t.Logf("%d of %d steps were done, %d swaps", done, rounds, <-swaps)
	if done < rounds/10 || done == rounds {
		t.Errorf("%d of %d steps were done", done, rounds)
	}
	if strings.Contains(mounts(t), outside) {
		t.Errorf("something is mounted outside:\n%s", mounts(t))
	}
	if after := list(t, outside); after != before {
		t.Errorf("outside was:\n%s\nis:\n%s", before, after)
	}
}

// list shows all files in a folder, their modes, times and content.
func list(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, st.Mode(), st.ModTime(), st.Size())
		if st.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			fmt.Fprintf(&b, "%s\n", data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestUnmountBelow takes away mounts that nobody may take apart: those below
// /sys are from the namespace that this one was made in.
func TestUnmountBelow(t *testing.T) {
	dir := t.TempDir()
	sys := filepath.Join(dir, "sys")
	if err := os.Mkdir(sys, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // one over the other
		if err := unix.Mount("/sys", sys, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := overlay.UnmountBelow(dir); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(sys); err != nil || len(entries) > 0 {
		t.Errorf("still mounted: %v, %v", entries, err)
	}
}

// TestFileThroughLink sees that a file is not written through a link in the
// tree.
func TestFileThroughLink(t *testing.T) {
	root, outside := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(outside, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "file")); err != nil {
		t.Fatal(err)
	}
	if err := (sandbox.File{Target: "/file", Content: []byte("x"), Mode: 0o644}).Apply(root); err == nil {
		t.Error("wrote through a symbolic link")
	}
	if data, _ := os.ReadFile(outside); string(data) != "mine" {
		t.Errorf("the file outside holds %q", data)
	}
}

// detachBelow takes away what an Op mounted below a root that is itself no
// mount.
func detachBelow(t *testing.T, root string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], root+"/") {
			if err := unix.Unmount(f[1], unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
}
