package disk

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capNetRaw is a v2 capability, as the kernel shows it in the namespace.
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// An ACL for user 7 as the kernel takes it and as ext4 stores it, in the words
// of debugfs.
const (
	aclUser7 = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\x07\x00\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	aclShown = "01 00 00 00 01 00 07 00 02 00 07 00 07 00 00 00 04 00 05 00 10 00 07 00 20 00 05 00"
)

// kinds makes a tree with one of every kind of thing.
func kinds(t *testing.T) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	put(t, tree, "boot/grub/grub.cfg", "set timeout=1\n")
	put(t, tree, "boot/efi/EFI/debian/grub.cfg", "configfile\n")
	put(t, tree, "etc/empty", "")
	put(t, tree, "usr/bin/su", strings.Repeat("su", 9000))
	must(t, os.Link(filepath.Join(tree, "usr/bin/su"), filepath.Join(tree, "usr/bin/hard link")))
	must(t, os.Chown(filepath.Join(tree, "usr/bin/su"), 12, 34))
	must(t, unix.Chmod(filepath.Join(tree, "usr/bin/su"), 0o4755))
	ping := put(t, tree, "usr/bin/ping", "ping")
	must(t, unix.Setxattr(ping, "security.capability", []byte(capNetRaw), 0))
	acl := put(t, tree, "etc/acl", "acl")
	must(t, unix.Setxattr(acl, "system.posix_acl_access", []byte(aclUser7), 0))
	must(t, unix.Setxattr(acl, "user.note", []byte("hello"), 0))
	must(t, unix.Setxattr(acl, "user.large", []byte(strings.Repeat("x", 2500)), 0))
	for _, length := range []int{1, 59, 60, 300} {
		must(t, os.Symlink(strings.Repeat("a", length), filepath.Join(tree, fmt.Sprintf("link%d", length))))
	}
	must(t, os.Lchown(filepath.Join(tree, "link60"), 60000, 60001))
	must(t, unix.Mkfifo(filepath.Join(tree, "fifo"), 0o600))
	must(t, unix.Mknod(filepath.Join(tree, "socket"), unix.S_IFSOCK|0o660, 0))
	must(t, os.MkdirAll(filepath.Join(tree, "var/tmp"), 0o755))
	must(t, unix.Chmod(filepath.Join(tree, "var/tmp"), 0o1777))
	put(t, tree, "lost+found/x", "kept")

	sparse, err := os.Create(filepath.Join(tree, "sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("middle"), 5<<20)
	must(t, err)
	must(t, sparse.Truncate(10<<20))
	must(t, sparse.Close())

	for name, at := range map[string]time.Time{
		"fifo":              time.Unix(800000000, 500000000),
		"usr/bin/hard link": time.Unix(1, 999999999),
		"etc":               time.Unix(1234567890, 1),
	} {
		must(t, os.Chtimes(filepath.Join(tree, name), time.Now(), at))
	}
	// The root directory comes last: making its entries changed it.
	must(t, unix.Setxattr(tree, "user.root", []byte("r"), 0))
	must(t, os.Chown(tree, 3, 4))
	must(t, os.Chmod(tree, 0o711))
	must(t, os.Chtimes(tree, time.Now(), time.Unix(1111111111, 0)))
	return tree
}

// TestExt4Content compares every file of an image with the tree.
func TestExt4Content(t *testing.T) {
	tree := kinds(t)
	image := write(t, Spec{Tree: tree, Layout: mbrLayout(64), Format: Format{Name: "raw"}})
	fsck(t, image, 1<<20)
	compareExt4(t, tree, image, 1<<20, nil)

	part := fmt.Sprintf("%s?offset=%d", image, 1<<20)
	for file, want := range map[string][]string{
		"/":             {`user.root (1) = "r"`, "Mode:  0711", "User:     3   Group:     4"},
		"/usr/bin/ping": {"security.capability (20) = 01 00 00 02 00 20 00 00 00 00 00 00 00 00 00 00 00 00 00 00"},
		"/etc/acl":      {"system.posix_acl_access (28) = " + aclShown, `user.note (5) = "hello"`, "user.large (2500)"},
		"/sparse":       {"Blockcount: 8\n"},
		"/usr/bin/su":   {"Mode:  04755", "Links: 2"},
	} {
		got := output(t, "debugfs", "-R", "stat "+file, part)
		for _, text := range want {
			if !strings.Contains(got, text) {
				t.Errorf("debugfs does not show %q of %s:\n%s", text, file, got)
			}
		}
	}
	superblock := output(t, "dumpe2fs", "-h", part)
	for _, text := range []string{"UUID:          " + rootUUID, "Directory Hash Seed:      " + rootUUID, "volume name:   root", "Filesystem created:       Tue Nov 14 22:13:20 2023"} {
		if !strings.Contains(superblock, text) {
			t.Errorf("dumpe2fs does not show %q:\n%s", text, superblock)
		}
	}
	if strings.Contains(superblock, "metadata_csum_seed") || strings.Contains(superblock, "orphan_file") {
		t.Errorf("features that old GRUBs and kernels cannot read:\n%s", superblock)
	}
}

// fsck lets e2fsck look for the smallest inconsistency.
func fsck(t *testing.T, image string, offset int64) {
	t.Helper()
	output(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", image, offset))
}

var statLine = regexp.MustCompile(`(?s)Type: (\w[\w ]*?) +Mode: +(\d+).*?User: +(\d+) +Group: +(\d+).*?Size: (\d+).*?Links: (\d+).*?ctime: 0x(\w+):(\w+).*?atime: 0x(\w+):(\w+).*?mtime: 0x(\w+):(\w+)`)

// compareExt4 compares metadata and contents of what a tree has, outside the
// directories in without, with an image.
func compareExt4(t *testing.T, tree, image string, offset int64, without []string) {
	t.Helper()
	part := fmt.Sprintf("%s?offset=%d", image, offset)
	dump := t.TempDir()
	output(t, "debugfs", "-R", "rdump / "+dump, part)
	err := filepath.WalkDir(tree, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := strings.TrimPrefix(name, tree)
		info, err := entry.Info()
		if err != nil {
			return err
		}
		found := statLine.FindStringSubmatch(output(t, "debugfs", "-R", `stat "`+path.Join("/", inside)+`"`, part))
		if found == nil {
			t.Errorf("%s is not in the image", inside)
			return nil
		}
		if got, want := imageLine(found), treeLine(info); got != want {
			t.Errorf("%s in the image is\n%s, in the tree\n%s", inside, got, want)
		}
		for _, dir := range without {
			if inside == dir {
				left, err := os.ReadDir(dump + inside)
				if err != nil || len(left) != 0 {
					t.Errorf("mount point %s in the image holds %v (%v), want nothing", inside, left, err)
				}
				return fs.SkipDir
			}
		}
		switch {
		case info.Mode().IsRegular():
			if digest(t, dump+inside) != digest(t, name) {
				t.Errorf("contents of %s differ", inside)
			}
		case info.Mode()&fs.ModeSymlink != 0:
			want, err := os.Readlink(name)
			must(t, err)
			if got, err := os.Readlink(dump + inside); err != nil || got != want {
				t.Errorf("%s leads to %q (%v), want %q", inside, got, err, want)
			}
		}
		return nil
	})
	must(t, err)
}

func imageLine(found []string) string {
	kind := map[string]string{"regular": "file", "directory": "dir", "symlink": "link", "FIFO": "fifo", "socket": "socket"}[found[1]]
	size, links := found[5], found[6]
	if kind != "file" && kind != "link" {
		size = "-"
	}
	if kind == "dir" {
		links = "-"
	}
	mode := strings.TrimLeft(found[2], "0")
	line := fmt.Sprintf("%s %s %s:%s size=%s links=%s mtime=%s:%s", kind, mode, found[3], found[4], size, links, found[11], found[12])
	if found[7] != found[11] || found[9] != found[11] {
		line += fmt.Sprintf(" ctime=%s atime=%s", found[7], found[9])
	}
	return line
}

func treeLine(info fs.FileInfo) string {
	stat := info.Sys().(*syscall.Stat_t)
	kind := map[uint32]string{unix.S_IFREG: "file", unix.S_IFDIR: "dir", unix.S_IFLNK: "link", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket"}[stat.Mode&unix.S_IFMT]
	size, links := fmt.Sprint(stat.Size), fmt.Sprint(stat.Nlink)
	if kind != "file" && kind != "link" {
		size = "-"
	}
	if kind == "dir" {
		links = "-"
	}
	return fmt.Sprintf("%s %o %d:%d size=%s links=%s mtime=%08x:00000000", kind, stat.Mode&0o7777, stat.Uid, stat.Gid, size, links, uint32(stat.Mtim.Sec))
}

// TestExt4Times stores times before 1970 and after 2037, each alone.
func TestExt4Times(t *testing.T) {
	for want, at := range map[string]time.Time{
		"mtime: 0xed300880:00000000": time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC),
		"mtime: 0x8d132300:00000001": time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC),
		"mtime: 0xffffffff:00000001": time.Unix(1<<32-1, 0),
	} {
		tree := t.TempDir()
		must(t, os.Chtimes(put(t, tree, "file", ""), at, at))
		image := write(t, Spec{Tree: tree, Layout: mbrLayout(16), Format: Format{Name: "raw"}})
		fsck(t, image, 1<<20)
		got := output(t, "debugfs", "-R", "stat /file", image+"?offset=1048576")
		if !strings.Contains(got, want) {
			t.Errorf("debugfs does not show %q:\n%s", want, got)
		}
	}
}

func TestRefused(t *testing.T) {
	early, late := time.Unix(-1, 0), time.Unix(1<<31, 0)
	for name, c := range map[string]struct {
		prepare func(t *testing.T, tree string, spec *Spec)
		want    string
	}{
		"times on both sides": {func(t *testing.T, tree string, _ *Spec) {
			must(t, os.Chtimes(put(t, tree, "old", ""), early, early))
			must(t, os.Chtimes(put(t, tree, "new", ""), late, late))
		}, "touch one kind"},
		"far future": {func(t *testing.T, tree string, _ *Spec) {
			must(t, os.Chtimes(put(t, tree, "far", ""), early, time.Unix(1<<32, 0)))
		}, "/far was modified at 4294967296"},
		"larger than the disk, plainly": {func(t *testing.T, tree string, spec *Spec) {
			must(t, os.WriteFile(filepath.Join(tree, "data"), bytes.Repeat([]byte("x"), 17<<20), 0o644))
		}, "the tree is larger than the disk: / holds 2 files with 18 MiB of data, but its ext4 filesystem has 15 MiB: set the partition's size to at least"},
		"larger than the disk, with what ext4 needs": {func(t *testing.T, tree string, spec *Spec) {
			must(t, os.WriteFile(filepath.Join(tree, "data"), bytes.Repeat([]byte("x"), 14<<20), 0o644))
		}, "the tree is larger than the disk: / holds 2 files with 15 MiB of data"},
		"mount point is a link": {func(t *testing.T, tree string, spec *Spec) {
			must(t, os.Symlink("/etc", filepath.Join(tree, "boot")))
			spec.Layout = gptLayout()
		}, "mountpoint /boot/efi: /boot in the tree is not a directory"},
		"link in vfat": {func(t *testing.T, tree string, spec *Spec) {
			must(t, os.MkdirAll(filepath.Join(tree, "boot/efi"), 0o755))
			must(t, os.Symlink("x", filepath.Join(tree, "boot/efi/link")))
			spec.Layout = gptLayout()
		}, "/boot/efi/link is a symbolic link, which vfat cannot store"},
		"names that vfat folds": {func(t *testing.T, tree string, spec *Spec) {
			put(t, tree, "boot/efi/name", "")
			put(t, tree, "boot/efi/NAME", "")
			spec.Layout = gptLayout()
		}, "vfat cannot hold both /NAME and /name"},
		"vfat too small": {func(t *testing.T, tree string, spec *Spec) {
			must(t, os.MkdirAll(filepath.Join(tree, "boot/efi"), 0o755))
			must(t, os.WriteFile(filepath.Join(tree, "boot/efi/a"), make([]byte, 20<<20-4096), 0o644))
			spec.Layout = gptLayout()
		}, "the tree is larger than the disk: /boot/efi holds"},
		"a loader of its own": {func(t *testing.T, tree string, spec *Spec) {
			put(t, tree, "boot/efi/EFI/boot/bootx64.efi", "")
			spec.Layout, spec.Bootloader = gptLayout(), bothPlatforms
		}, "the tree has a /EFI/boot/bootx64.efi of its own"},
		"uefi without esp": {func(t *testing.T, tree string, spec *Spec) {
			spec.Bootloader = bothPlatforms
		}, "needs an EFI system partition"},
		"gpt without bios boot": {func(t *testing.T, tree string, spec *Spec) {
			spec.Layout, spec.Bootloader = gptLayout(), bothPlatforms
			spec.Layout.Partitions = spec.Layout.Partitions[1:]
		}, "needs a BIOS boot partition"},
		"gap too small": {func(t *testing.T, tree string, spec *Spec) {
			spec.Layout.Partitions[0].Start = 63
			spec.Bootloader = &Bootloader{Platforms: []string{GrubBIOS}, Config: "/boot/grub/grub.cfg"}
		}, "but there are 62: start the first partition at sector 2048 or later"},
		"platform": {func(t *testing.T, tree string, spec *Spec) {
			spec.Bootloader = &Bootloader{Platforms: []string{"arm64-efi"}, Config: "/boot/grub/grub.cfg"}
		}, `grub platform "arm64-efi" is not supported`},
		"config": {func(t *testing.T, tree string, spec *Spec) {
			spec.Bootloader = &Bootloader{Platforms: []string{GrubBIOS}, Config: "/boot/my grub.cfg"}
		}, "without blanks"},
		"output exists": {func(t *testing.T, tree string, spec *Spec) {
			spec.Output = put(t, t.TempDir(), "disk", "")
		}, "exists: choose another filename"},
		"swap too small": {func(t *testing.T, tree string, spec *Spec) {
			spec.Layout = gptLayout()
			spec.Layout.Partitions[3].Size = 72
		}, "swap of 36864 bytes is not possible"},
	} {
		t.Run(name, func(t *testing.T) {
			tree, at := t.TempDir(), epoch
			spec := Spec{Tree: tree, Output: filepath.Join(t.TempDir(), "disk"), Layout: mbrLayout(16), Format: Format{Name: "raw"}, Epoch: &at}
			c.prepare(t, tree, &spec)
			err := Write(context.Background(), spec)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got error %v, want one with %q", err, c.want)
			}
			left, err := os.ReadDir(filepath.Dir(spec.Output))
			must(t, err)
			for _, entry := range left {
				if name != "output exists" {
					t.Errorf("%s was left behind", entry.Name())
				}
			}
		})
	}
}
