package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ossify/ossify/qcow2"
	"golang.org/x/sys/unix"
)

// TestGPT writes a disk with everything and looks at each part of it.
func TestGPT(t *testing.T) {
	tree := kinds(t)
	must(t, os.Chmod(filepath.Join(tree, "boot"), 0o750))
	must(t, unix.Setxattr(filepath.Join(tree, "boot"), "user.boot", []byte("b"), 0))
	at := time.Unix(1222222222, 0)
	must(t, os.Chtimes(filepath.Join(tree, "boot/efi"), at, at))
	must(t, os.Chtimes(filepath.Join(tree, "boot"), at, at))
	image := write(t, Spec{Tree: tree, Layout: gptLayout(), Bootloader: bothPlatforms, Format: Format{Name: "raw"}})

	l, err := gptLayout().Resolve()
	must(t, err)
	if out := output(t, "sfdisk", "--verify", image); !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk --verify: %s", out)
	}
	checkTable(t, image, &l)

	root, boot, esp := l.Partitions[4].startBytes(), l.Partitions[2].startBytes(), l.Partitions[1].startBytes()
	fsck(t, image, root)
	fsck(t, image, boot)
	compareExt4(t, tree, image, root, []string{"/boot"})
	compareExt4(t, filepath.Join(tree, "boot"), image, boot, []string{"/efi"})
	for part, want := range map[int64]string{root: "/boot", boot: "/"} {
		if got := output(t, "debugfs", "-R", "stat "+want, fmt.Sprintf("%s?offset=%d", image, part)); !strings.Contains(got, `user.boot (1) = "b"`) {
			t.Errorf("/boot lost its extended attributes: %s", got)
		}
	}

	vfat := filepath.Join(t.TempDir(), "vfat")
	data, err := os.ReadFile(image)
	must(t, err)
	must(t, os.WriteFile(vfat, data[esp:esp+l.Partitions[1].sizeBytes()], 0o644))
	output(t, "fsck.vfat", "-n", vfat)
	for text, out := range map[string]string{
		"7B77-95E7":               output(t, "minfo", "-i", vfat, "::") + output(t, "mdir", "-i", vfat, "::"),
		"::/EFI/debian/grub.cfg":  output(t, "mdir", "-/", "-b", "-i", vfat, "::"),
		"::/EFI/BOOT/BOOTX64.EFI": output(t, "mdir", "-/", "-b", "-i", vfat, "::"),
		"configfile\n":            output(t, "mtype", "-i", vfat, "::/EFI/debian/grub.cfg"),
	} {
		if !strings.Contains(out, text) {
			t.Errorf("vfat does not show %q:\n%s", text, out)
		}
	}
	if out := output(t, "mtype", "-i", vfat, "::/EFI/BOOT/BOOTX64.EFI"); !strings.HasPrefix(out, "MZ") || !strings.Contains(out, "search.fs_uuid "+bootUUID+" root\nset prefix=($root)/grub\nnormal ($root)/grub/grub.cfg\n") {
		t.Error("the UEFI loader does not look for /boot's filesystem")
	}

	swap := data[l.Partitions[3].startBytes():]
	if string(swap[4086:4096]) != "SWAPSPACE2" || binary.LittleEndian.Uint32(swap[1028:]) != 1023 {
		t.Error("no swap of 1024 pages")
	}
	swapFile := filepath.Join(t.TempDir(), "swap")
	must(t, os.WriteFile(swapFile, swap[:l.Partitions[3].sizeBytes()], 0o600))
	if out := output(t, "swaplabel", swapFile); !strings.Contains(out, swapUUID) || !strings.Contains(out, "LABEL: swap") {
		t.Errorf("swaplabel: %s", out)
	}
	checkBoot(t, data, 2048, 2048)
}

// checkBoot follows the sectors from the boot sector to the core image.
func checkBoot(t *testing.T, data []byte, start, room uint64) {
	t.Helper()
	le := binary.LittleEndian
	if got := le.Uint64(data[0x5c:]); got != start {
		t.Errorf("boot sector loads sector %d, want %d", got, start)
	}
	if !bytes.Equal(data[0x66:0x68], []byte{0x90, 0x90}) || !bytes.Equal(data[510:512], []byte{0x55, 0xaa}) {
		t.Error("boot sector without drive check or signature")
	}
	core := data[start*512:]
	next, count, segment := le.Uint64(core[0x1f4:]), uint64(le.Uint16(core[0x1fc:])), le.Uint16(core[0x1fe:])
	if next != start+1 || count < 50 || count >= room || segment != 0x820 {
		t.Errorf("core image continues at %d for %d sectors in segment %#x", next, count, segment)
	}
	if tail := core[(count+1)*512 : room*512]; bytes.Count(tail, []byte{0}) != len(tail) {
		t.Error("there is more after the core image's last sector")
	}
}

// TestMissingMountpoints makes mount points that the tree does not have.
func TestMissingMountpoints(t *testing.T) {
	tree := t.TempDir()
	put(t, tree, "etc/hostname", "x\n")
	image := write(t, Spec{Tree: tree, Layout: gptLayout(), Format: Format{Name: "raw"}})
	l, err := gptLayout().Resolve()
	must(t, err)
	for i, dir := range map[int]string{4: "/boot", 2: "/efi"} {
		offset := l.Partitions[i].startBytes()
		fsck(t, image, offset)
		got := statLine.FindStringSubmatch(output(t, "debugfs", "-R", "stat "+dir, fmt.Sprintf("%s?offset=%d", image, offset)))
		if got == nil || imageLine(got) != "dir 755 0:0 size=- links=- mtime=6553f100:00000000" {
			t.Errorf("mount point %s is %v", dir, got)
		}
	}
}

// TestInodes has more files than one inode per 16 KiB allows.
func TestInodes(t *testing.T) {
	tree := t.TempDir()
	for i := range 1500 {
		put(t, tree, fmt.Sprintf("d%d/%d", i%7, i), "")
	}
	image := write(t, Spec{Tree: tree, Layout: mbrLayout(16), Format: Format{Name: "raw"}})
	// 11 reserved ones (with the root and lost+found) and 7 directories.
	if out := output(t, "e2fsck", "-fn", image+"?offset=1048576"); !strings.Contains(out, "root: 1518/") {
		t.Errorf("e2fsck finds another number of files: %s", out)
	}
}

// formats are those that Write makes; each is compared with the raw image.
var formats = []Format{
	{Name: "raw"},
	{Name: "raw.xz"},
	{Name: "qcow2"},
	{Name: "qcow2", Compression: qcow2.Zlib},
	{Name: "qcow2", Compression: qcow2.Zstd},
	{Name: "qcow2", Compression: qcow2.Zlib, Compat: "0.10"},
	{Name: "vmdk"},
	{Name: "vmdk", Subformat: "monolithicSparse"},
	{Name: "vmdk", Subformat: "monolithicFlat"},
	{Name: "vmdk", Subformat: "twoGbMaxExtentSparse"},
	{Name: "vdi"},
	{Name: "vpc"},
	{Name: "vhdx"},
}

// TestSameBytes writes each format twice, at different times, from two copies
// of a tree that were made in different order, and compares it with the raw
// image.
func TestSameBytes(t *testing.T) {
	first := kinds(t)
	raw := write(t, Spec{Tree: first, Layout: gptLayout(), Bootloader: bothPlatforms, Format: Format{Name: "raw"}})

	second := filepath.Join(t.TempDir(), "another place")
	must(t, os.Mkdir(second, 0o755))
	// In this order the inodes and the directories' entries differ.
	output(t, "bash", "-ec", `cd "$1"; ls -A | sort -r | xargs -I{} cp -a {} "$2"; chown --reference=. "$2"; chmod --reference=. "$2"; setfattr -n user.root -v r "$2"; touch -r . "$2"; find "$2" -type f -exec cat {} + > /dev/null`, "bash", first, second)

	made := [2][]string{}
	for i, tree := range []string{first, second} {
		for range formats {
			made[i] = append(made[i], filepath.Join(t.TempDir(), "disk"))
		}
		time.Sleep(1100 * time.Millisecond) // clocks count in seconds
		for k, format := range formats {
			write(t, Spec{Tree: tree, Output: made[i][k], Layout: gptLayout(), Bootloader: bothPlatforms, Format: format})
		}
	}
	for k, format := range formats {
		name := strings.TrimSpace(strings.Join([]string{format.Name, format.Compression.String(), format.Compat, format.Subformat}, " "))
		t.Run(name, func(t *testing.T) {
			made := [2]string{made[0][k], made[1][k]}
			files, err := filepath.Glob(filepath.Dir(made[0]) + "/*")
			must(t, err)
			for _, file := range files {
				other := filepath.Join(filepath.Dir(made[1]), filepath.Base(file))
				if digest(t, file) != digest(t, other) {
					out, _ := exec.Command("bash", "-c", `cmp -l "$0" "$1" | head -n 20; ls -ls "$0" "$1"`, file, other).CombinedOutput()
					t.Errorf("%s differs from the one made later:\n%s", filepath.Base(file), out)
				}
			}
			switch format.Name {
			case "raw.xz":
				plain := filepath.Join(t.TempDir(), "plain")
				output(t, "bash", "-ec", `xz -dc < "$1" > "$2"`, "bash", made[0], plain)
				made[0] = plain
				fallthrough
			case "raw":
				if digest(t, made[0]) != digest(t, raw) {
					t.Error("differs from the raw image")
				}
			default:
				output(t, "qemu-img", "compare", "-f", "raw", "-F", format.Name, raw, made[0])
			}
			if format.Name == "qcow2" || format.Name == "vdi" || format.Name == "vhdx" {
				output(t, "qemu-img", "check", "-f", format.Name, made[0])
			}
		})
	}
}

func TestFormatRefused(t *testing.T) {
	for want, f := range map[string]Format{
		"unknown image format":     {Name: "vhd"},
		"are options of qcow2":     {Name: "raw", Compression: qcow2.Zlib},
		"are options of qcow2, no": {Name: "vmdk", Compat: "1.1"},
		"is an option of vmdk":     {Name: "qcow2", Subformat: "streamOptimized"},
		"unknown vmdk subformat":   {Name: "vmdk", Subformat: "thick"},
		"cannot be compressed":     {Name: "qcow2", Compat: "0.10", Compression: qcow2.Zstd},
		"unknown qcow2 version":    {Name: "qcow2", Compat: "2"},
	} {
		if err := f.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got error %v, want one with %q", f, err, want)
		}
	}
}

// TestSourceIsOnlyRead leaves no mount and no file behind, and no change.
func TestSourceIsOnlyRead(t *testing.T) {
	tree := kinds(t)
	before := output(t, "find", tree, "-printf", "%p %y %m %U:%G %s %n %t %c\n")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	image := write(t, Spec{Tree: tree, Layout: gptLayout(), Bootloader: bothPlatforms, Format: Format{Name: "qcow2"}})
	if after := output(t, "find", tree, "-printf", "%p %y %m %U:%G %s %n %t %c\n"); after != before {
		t.Errorf("the tree changed from\n%s\nto\n%s", before, after)
	}
	now, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if !bytes.Equal(now, mounts) {
		t.Errorf("mounts changed from\n%s\nto\n%s", mounts, now)
	}
	left, err := os.ReadDir(filepath.Dir(image))
	must(t, err)
	if len(left) != 1 {
		t.Errorf("beside the image lie %v", left)
	}
}

// TestNoEpoch takes the clock from the newest file.
func TestNoEpoch(t *testing.T) {
	tree := t.TempDir()
	at := time.Unix(1500000000, 0)
	must(t, os.Chtimes(put(t, tree, "file", ""), at, at))
	must(t, os.Chtimes(tree, at.Add(-time.Hour), at.Add(-time.Hour)))
	image := filepath.Join(t.TempDir(), "disk")
	must(t, Write(context.Background(), Spec{Tree: tree, Output: image, Layout: mbrLayout(16), Format: Format{Name: "raw"}}))
	if got := output(t, "dumpe2fs", "-h", image+"?offset=1048576"); !strings.Contains(got, "Filesystem created:       Fri Jul 14 02:40:00 2017") {
		t.Errorf("the filesystem was made at another time: %s", got)
	}
}

// TestCancel stops with the context's error and cleans up.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	err := Write(ctx, Spec{Tree: t.TempDir(), Output: filepath.Join(dir, "disk"), Layout: mbrLayout(16), Format: Format{Name: "raw"}})
	if err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestTools replaces programs by scripts to see what is asked of them.
func TestTools(t *testing.T) {
	xfs := mbrLayout(400)
	xfs.Partitions[0].Filesystem.Type = "xfs"
	for name, c := range map[string]struct {
		program, script, want string
	}{
		"old xfs":     {"mkfs.xfs", "echo mkfs.xfs version 6.1.0", "mkfs.xfs 6.1 cannot fill a filesystem from a directory, 6.17 or later can"},
		"strange xfs": {"mkfs.xfs", "echo hello", "cannot read the version of mkfs.xfs"},
		"new xfs": {"mkfs.xfs", `[ "$1" = -V ] && { echo mkfs.xfs version 6.18.0; exit; }; echo "$SOURCE_DATE_EPOCH $DETERMINISTIC_SEED $*" >&2; exit 9`,
			"1700000000 1 -q -f -K -m uuid=" + rootUUID + " -L root -p "},
		"full xfs": {"mkfs.xfs", `[ "$1" = -V ] && { echo mkfs.xfs version 7.0.0; exit; }; echo "No space left on device" >&2; exit 1`,
			"the tree is larger than the disk"},
	} {
		t.Run(name, func(t *testing.T) {
			bin, at := t.TempDir(), epoch
			must(t, os.WriteFile(filepath.Join(bin, c.program), []byte("#!/bin/sh\n"+c.script+"\n"), 0o755))
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			err := Write(context.Background(), Spec{Tree: t.TempDir(), Output: filepath.Join(t.TempDir(), "disk"), Layout: xfs, Format: Format{Name: "raw"}, Epoch: &at})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		_, err := (&tool{}).find("mkfs.nothing", "mke2fs.nothing")
		if err == nil || !strings.Contains(err.Error(), "the build root has no mkfs.nothing or mke2fs.nothing") {
			t.Errorf("got error %v", err)
		}
	})
	t.Run("status", func(t *testing.T) {
		var log bytes.Buffer
		err := (&tool{log: &log}).run(context.Background(), []string{"A=b"}, nil, "sh", "-c", "echo $A; exit 3")
		if !saidAny(err, "b") || log.String() != "b\n" || err.Error() != "sh: exit status 3: b" {
			t.Errorf("got error %v, log %q", err, log.String())
		}
	})
}
