// Package root holds the end-to-end tests of what only root of the machine can
// do. Everything else is tested without root.
package root

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func program(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("these tests are for root; `make test` as root runs them")
	}
	path, err := filepath.Abs("../../build/ossify")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (run make build first)", err)
	}
	return path
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestLoopDevices fills an image through services that make a loop device and
// mount what is on it, as osbuild's do.
func TestLoopDevices(t *testing.T) {
	ossify := program(t)
	dir, err := os.MkdirTemp("/var/tmp", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, input := range []string{"testdata/disk.json", "-"} {
		cmd := exec.Command(ossify, "--store", filepath.Join(dir, "store"), "--libdir", "testdata/lib",
			"--export", "image", "--output-directory", filepath.Join(dir, "out"), input)
		if input == "-" {
			f, err := os.Open("testdata/disk.json")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd.Stdin = f
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	image := filepath.Join(dir, "out", "image", "disk.img")
	output(t, "e2fsck", "-fn", image)
	if text := output(t, "debugfs", "-R", "cat /etc/hostname", image); !strings.HasSuffix(text, "one\n") {
		t.Errorf("hostname: %q", text)
	}
	if text := output(t, "debugfs", "-R", "stat /etc/hostname", image); !strings.Contains(text, "User:    12   Group:    34") {
		t.Errorf("owner: %s", text)
	}
	if left := output(t, "losetup", "--all"); strings.Contains(left, dir) {
		t.Errorf("loop devices are left: %s", left)
	}
	if left := output(t, "cat", "/proc/self/mounts"); strings.Contains(left, dir) {
		t.Errorf("mounts are left: %s", left)
	}
}

// TestNativeDevices writes a disk through Ossify's own devices and mounts.
func TestNativeDevices(t *testing.T) {
	ossify := program(t)
	dir, err := os.MkdirTemp("/var/tmp", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	output(t, ossify, "--store", filepath.Join(dir, "store"), "--export", "image", "--output-directory", filepath.Join(dir, "out"), "testdata/native.json")
	image := filepath.Join(dir, "out", "image", "disk.img")
	if text := output(t, "sfdisk", "--dump", image); !strings.Contains(text, "label-id: D209C89E-EA5E-4FBD-B161-B461CCE297E0") || !strings.Contains(text, "start=        2048, size=      100000") {
		t.Errorf("partition table: %s", text)
	}
	part := image + "?offset=1048576"
	if text := output(t, "dumpe2fs", "-h", part); !strings.Contains(text, "76a22bf4-f153-4541-b6c7-0332c0dfaeac") {
		t.Errorf("filesystem: %s", text)
	}
	if text := output(t, "debugfs", "-R", "cat /etc/hostname", part); !strings.HasSuffix(text, "one\n") {
		t.Errorf("hostname: %q", text)
	}
	output(t, "e2fsck", "-fn", part)
	if left := output(t, "losetup", "--all"); strings.Contains(left, dir) {
		t.Errorf("loop devices are left: %s", left)
	}
}
