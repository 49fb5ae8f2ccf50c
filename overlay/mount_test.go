package overlay

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMount mounts many layers in both ways; kernels before 6.8 have the old one only.
func TestMount(t *testing.T) {
	if os.Getenv("OSSIFY_TEST_MOUNT") == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		// As in a build: root of a user namespace.
		cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", self, "-test.run=^TestMount$", "-test.v")
		cmd.Env = append(os.Environ(), "OSSIFY_TEST_MOUNT=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	const n = 300
	for name, mount := range map[string]func(*Stack, *os.File) error{"new": (*Stack).mountNew, "old": (*Stack).mountOld} {
		dir := filepath.Join(t.TempDir(), "with,a comma:and colon")
		s := &Stack{Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"), Volatile: true}
		target := filepath.Join(dir, "merged")
		for i := range n {
			s.Lower = append(s.Lower, filepath.Join(dir, fmt.Sprint(i)))
		}
		for _, d := range append([]string{s.Upper, s.Work, target}, s.Lower...) {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for i, d := range s.Lower {
			for _, file := range []string{fmt.Sprintf("own-%d", i), "shared"} {
				if err := os.WriteFile(filepath.Join(d, file), fmt.Append(nil, i), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		at, err := os.OpenFile(target, unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := mount(s, at); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if entries, err := os.ReadDir(target); err != nil || len(entries) != n+1 {
			t.Errorf("%s: %d files, %v", name, len(entries), err)
		}
		if data, err := os.ReadFile(filepath.Join(target, "shared")); err != nil || string(data) != "0" {
			t.Errorf("%s: the uppermost file is %q, %v", name, data, err)
		}
		if err := os.WriteFile(filepath.Join(target, "own-7"), []byte("changed"), 0o644); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if data, err := os.ReadFile(filepath.Join(s.Upper, "own-7")); err != nil || string(data) != "changed" {
			t.Errorf("%s: the upper directory has %q, %v", name, data, err)
		}
		if data, err := os.ReadFile(filepath.Join(s.Lower[7], "own-7")); err != nil || string(data) != "7" {
			t.Errorf("%s: the lower directory has %q, %v", name, data, err)
		}
		if err := exec.Command("umount", target).Run(); err != nil {
			t.Errorf("%s: unmount: %v", name, err)
		}
		// A read-only one.
		s.Upper, s.Work, s.Volatile = "", "", false
		if err := mount(s, at); err != nil {
			t.Errorf("%s: read-only: %v", name, err)
		} else if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o644); err == nil {
			t.Errorf("%s: a read-only tree was written to", name)
		}
		_ = exec.Command("umount", target).Run()
		at.Close()
	}
}
