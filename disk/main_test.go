package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.podman.io/storage/pkg/reexec"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"
)

// TestMain gives the tests what a stage has in its sandbox: root, in a user
// namespace if an ordinary user started the tests.
func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	unshare.MaybeReexecUsingUserNamespace(false)
	unix.Umask(0o022)
	os.Exit(m.Run())
}

const (
	rootUUID = "6264d520-3fb9-423f-8ab8-7a0a8e3d3562"
	bootUUID = "0194fdc2-fa2f-4cc0-81d3-ff12045b73c8"
	swapUUID = "6e4ff95f-f662-45ee-a82a-bdf44a2d0b75"
	diskUUID = "D209C89E-EA5E-4FBD-B161-B461CCE297E0"
	epoch    = int64(1700000000)
)

// mbrLayout is one bootable ext4 on a disk of that many MiB.
func mbrLayout(mib int64) Layout {
	return Layout{TableType: MBR, UUID: "0x14fc63d2", Size: mib << 20, Partitions: []Partition{
		{Bootable: true, Filesystem: &Filesystem{Type: "ext4", UUID: rootUUID, Label: "root", Mountpoint: "/"}},
	}}
}

// gptLayout has a BIOS boot partition, an EFI system partition, /boot, swap
// and the rest for the root, 150 MiB in all.
func gptLayout() Layout {
	return Layout{TableType: GPT, UUID: diskUUID, Size: 150 << 20, Partitions: []Partition{
		{Size: 2048, Type: gptBIOSBoot, Bootable: true},
		{Size: 40960, Name: "esp", Filesystem: &Filesystem{Type: "vfat", UUID: "7B77-95E7", Label: "ESP", Mountpoint: "/boot/efi"}},
		{Size: 65536, Name: "boot", Filesystem: &Filesystem{Type: "ext4", UUID: bootUUID, Mountpoint: "/boot"}},
		{Size: 8192, Filesystem: &Filesystem{Type: "swap", UUID: swapUUID, Label: "swap"}},
		{Name: "root", Filesystem: &Filesystem{Type: "ext4", UUID: rootUUID, Label: "root", Mountpoint: "/"}},
	}}
}

var bothPlatforms = &Bootloader{Platforms: []string{GrubBIOS, GrubUEFI}, Config: "/boot/grub/grub.cfg"}

// write writes a disk of the tree and returns its path.
func write(t *testing.T, spec Spec) string {
	t.Helper()
	if spec.Output == "" {
		spec.Output = filepath.Join(t.TempDir(), "disk")
	}
	at := epoch
	spec.Epoch = &at
	spec.Log = testWriter{t}
	if err := Write(context.Background(), spec); err != nil {
		t.Fatal(err)
	}
	return spec.Output
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// output runs a program and returns what it prints; it must succeed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C", "TZ=UTC")
	path, err := (&tool{}).find(name)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Err = path, nil
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, said.Bytes())
	}
	return string(out)
}

// must stops the test on an error of setting it up.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes a file of a tree with the directories that lead to it.
func put(t *testing.T, tree, name, content string) string {
	t.Helper()
	path := filepath.Join(tree, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// digest is the checksum of a file's bytes.
func digest(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	must(t, err)
	return fmt.Sprintf("%x", h.Sum(nil))
}
