package root

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// policy is where Debian's package selinux-policy-default puts its rules.
const policy = "/etc/selinux/default/contexts/files"

// TestLabels labels a tree by a distribution's policy, writes it as an image, and
// compares with what setfiles makes of that image as root.
func TestLabels(t *testing.T) {
	ossify := program(t)
	dir, err := os.MkdirTemp("/var/tmp", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	archive := hostNames(t)
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256(archive))
	type object = map[string]any
	manifest, err := json.Marshal(object{"version": "2", "pipelines": []any{
		object{"name": "tree", "stages": []any{
			object{"type": "org.osbuild.untar", "inputs": object{"file": object{"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": []string{sum}}}},
			object{"type": "org.osbuild.selinux", "options": object{"file_contexts": "policy/file_contexts"}},
		}},
		object{"name": "image", "stages": []any{object{
			"type":   "org.ossify.disk",
			"inputs": object{"tree": object{"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": []string{"name:tree"}}},
			"options": object{"filename": "disk.img", "format": "raw", "size": 256 << 20, "pttype": "mbr", "ptuuid": "0x14fc63d2", "partitions": []any{
				object{"filesystem": object{"type": "ext4", "uuid": "76a22bf4-f153-4541-b6c7-0332c0dfaeac", "mountpoint": "/"}}}},
		}}},
	}, "sources": object{"org.osbuild.inline": object{"items": object{sum: object{"encoding": "base64", "data": base64.StdEncoding.EncodeToString(archive)}}}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "manifest.json")
	if err := os.WriteFile(path, manifest, 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, ossify, "--store", filepath.Join(dir, "store"), "--export", "image", "--output-directory", filepath.Join(dir, "out"), path)

	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	output(t, "mount", "-o", "loop,offset=1048576", filepath.Join(dir, "out", "image", "disk.img"), mnt)
	t.Cleanup(func() { output(t, "umount", mnt) })
	ours := labels(t, mnt)
	output(t, "setfiles", "-F", "-r", mnt, filepath.Join(mnt, "policy", "file_contexts"), mnt)
	theirs := labels(t, mnt)
	if len(ours) < 1000 {
		t.Errorf("only %d paths are labelled", len(ours))
	}
	for name, label := range theirs {
		if ours[name] != label {
			t.Errorf("%s: ours %q, setfiles %q", name, ours[name], label)
		}
	}
	t.Logf("%d paths labelled", len(theirs))
}

// hostNames is an archive of empty files with names of this machine, of every
// kind, and of the policy's rules.
func hostNames(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(h *tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"file_contexts", "file_contexts.homedirs", "file_contexts.subs_dist"} {
		data, err := os.ReadFile(filepath.Join(policy, name))
		if err != nil {
			t.Fatal(err)
		}
		add(&tar.Header{Name: "policy/" + name, Mode: 0o644}, data)
	}
	for _, name := range []string{"home/ada/.ssh/id", "home/ada/public_html/x", "run/systemd/x", "root/.bashrc", "srv/x", "tmp/x", "boot/vmlinuz-6.1", "var/www/html/x", "opt/x/bin/y"} {
		add(&tar.Header{Name: name, Mode: 0o644}, nil)
	}
	add(&tar.Header{Name: "run/fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, nil)
	count := 0
	for _, top := range []string{"/etc", "/usr/bin", "/usr/sbin", "/usr/lib", "/var/lib"} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it was removed meanwhile
			}
			if err != nil || count > 20000 || strings.Count(path, "/") > 5 {
				return err
			}
			count++
			name := strings.TrimPrefix(path, "/")
			switch {
			case d.IsDir():
				add(&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
			case d.Type() == fs.ModeSymlink:
				add(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: "x", Mode: 0o777}, nil)
			case d.Type().IsRegular():
				add(&tar.Header{Name: name, Mode: 0o644}, nil)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// labels are the labels of all paths below root.
func labels(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, "security.selinux", value)
		if errors.Is(err, unix.ENODATA) {
			n, err = 0, nil
		}
		out[strings.TrimPrefix(path, root)] = string(value[:n])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
