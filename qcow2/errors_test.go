package qcow2

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	short := rawFile(t, filepath.Join(dir, "short"), 1000, nil)
	mem := bytes.NewReader(make([]byte, 1<<20))
	for _, tc := range []struct {
		name     string
		size     int64
		segments []Segment
		opts     Options
		want     string
	}{
		{"negative size", -1, nil, Options{}, "disk size -1 is out of range"},
		{"cluster too small", 1, nil, Options{ClusterSize: 256}, "cluster size 256 is not allowed"},
		{"cluster too large", 1, nil, Options{ClusterSize: 4 << 20}, "cluster size 4194304 is not allowed"},
		{"cluster no power of two", 1, nil, Options{ClusterSize: 65535}, "cluster size 65535 is not allowed"},
		{"negative cluster", 1, nil, Options{ClusterSize: -512}, "cluster size -512 is not allowed"},
		{"threads", 1, nil, Options{Threads: -1}, "-1 threads are not allowed"},
		{"compression", 1, nil, Options{Compression: 9}, "unknown compression 9"},
		{"level without compression", 1, nil, Options{Level: 1}, "level 1 is not allowed for compression none: want 0 to 0"},
		{"zlib level", 1, nil, Options{Compression: Zlib, Level: 10}, "level 10 is not allowed for compression zlib: want 0 to 9"},
		{"zstd level", 1, nil, Options{Compression: Zstd, Level: -1}, "level -1 is not allowed for compression zstd: want 0 to 22"},
		{"disk too large for clusters", 1 << 40, nil, Options{ClusterSize: 512}, "use larger clusters"},
		{"overlap", 1 << 20, []Segment{{Offset: 100, File: mem, Length: 100}, {Offset: 0, File: mem, Length: 101}}, Options{},
			"segment at 100 overlaps the one before it, which ends at 101"},
		{"beyond the disk", 1000, []Segment{{Offset: 1, File: mem, Length: 1000}}, Options{}, "does not fit into the disk of 1000 bytes"},
		{"negative offset", 1000, []Segment{{Offset: -1, File: mem, Length: 10}}, Options{}, "segment at -1 (length 10, file offset 0) is out of range"},
		{"negative length", 1000, []Segment{{File: mem, Length: -10}}, Options{}, "is out of range"},
		{"negative file offset", 1000, []Segment{{File: mem, FileOffset: -1, Length: 10}}, Options{}, "is out of range"},
		{"file too short", 4096, []Segment{{File: short, FileOffset: 1, Length: 1000}}, Options{}, "which has only 1000"},
		{"memory too short", 2 << 20, []Segment{{File: mem, Length: 2 << 20}}, Options{}, "cannot read the disk's contents at 1048576: unexpected EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Write(t.Context(), create(t, filepath.Join(dir, "image")), tc.size, tc.segments, tc.opts)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %q", err, tc.want)
			}
		})
	}
}

type brokenReader struct{ err error }

func (b brokenReader) ReadAt([]byte, int64) (int, error) { return 0, b.err }

func TestReadError(t *testing.T) {
	broken := errors.New("bad sector")
	err := Write(t.Context(), create(t, filepath.Join(t.TempDir(), "image")), 1<<20,
		[]Segment{{File: brokenReader{broken}, Length: 1 << 20}}, Options{})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestNotRegular(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	err = Write(t.Context(), w, 512, nil, Options{})
	if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("got %v", err)
	}
}

// What stood in the file before is gone, also where the image has holes.
func TestOverwrites(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, "old"), filepath.Join(dir, "fresh")
	if err := os.WriteFile(old, noise(1, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(old, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	data := prose(1 << 20)
	segments := []Segment{{File: bytes.NewReader(data), Length: 1 << 20}}
	if err := Write(t.Context(), f, 1<<20, segments, Options{Compression: Zlib}); err != nil {
		t.Fatal(err)
	}
	writeImage(t, fresh, 1<<20, segments, Options{Compression: Zlib})
	a, errA := os.ReadFile(old)
	b, errB := os.ReadFile(fresh)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("the old file shows through (%v, %v)", errA, errB)
	}
}

// fullVariable tells the test binary to be the child of TestFull.
const fullVariable = "OSSIFY_QCOW2_TEST_FULL"

// TestFull fills a tmpfs of 1 MiB, mounted in a namespace of its own so that
// no privilege is needed.
func TestFull(t *testing.T) {
	if dir := os.Getenv(fullVariable); dir != "" {
		writeToFull(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestFull$", "-test.v")
	cmd.Env = append(os.Environ(), fullVariable+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func writeToFull(t *testing.T, dir string) {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	data := noise(1, 4<<20)
	segments := []Segment{{File: bytes.NewReader(data), Length: int64(len(data))}}
	for _, compression := range []Compression{None, Zlib, Zstd} {
		path := filepath.Join(dir, "image")
		err := Write(t.Context(), create(t, path), int64(len(data)), segments, Options{Compression: compression})
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "free some space on the filesystem of "+path) {
			t.Errorf("%v: got %v", compression, err)
		}
		if out, err := exec.Command("qemu-img", "info", "-f", "qcow2", path).CombinedOutput(); err == nil || !strings.Contains(string(out), "not in qcow2 format") {
			t.Errorf("%v: a broken image must not look like one (%v):\n%s", compression, err, out)
		}
	}
}
