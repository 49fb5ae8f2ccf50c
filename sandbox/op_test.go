package sandbox_test

import (
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
