package root

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// person is an ordinary user who may have leases.
type person struct{ name, home, helper string }

// run runs the program as that user, and returns what it prints.
func (p *person) run(args ...string) (string, error) {
	words := []string{"cd", p.home, "&&", "OSSIFY_HELPER=" + p.helper, "./ossify", "--store", "store"}
	cmd := exec.Command("su", p.name, "-s", "/bin/sh", "-c", strings.Join(append(words, args...), " "))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// newPerson starts ossify-loop for a user that it makes, with the test's modules
// and the manifest helper.json.
func newPerson(t *testing.T, ossify string) *person {
	t.Helper()
	p := &person{name: "ossify-helped"}
	if _, err := user.Lookup(p.name); err == nil {
		output(t, "userdel", "-r", p.name)
	}
	output(t, "useradd", "--create-home", "--user-group", p.name)
	t.Cleanup(func() { output(t, "userdel", "-r", p.name) })
	who, err := user.Lookup(p.name)
	if err != nil {
		t.Fatal(err)
	}
	p.home = who.HomeDir
	output(t, "cp", "-r", ossify, "testdata/lib", "testdata/helper.json", p.home)
	output(t, "chown", "-R", p.name+":", p.home)

	run, err := os.MkdirTemp("/run", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(run, 0o755); err != nil {
		t.Fatal(err)
	}
	p.helper = filepath.Join(run, "socket")
	staging, err := os.MkdirTemp("/var/lib", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(ossify+"-loop", "--listen", p.helper, "--group", p.name, "--staging", staging)
	var said bytes.Buffer
	daemon.Stderr = &said
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The user's last process, which holds mounts, is gone by now.
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait()
		if t.Failed() {
			t.Logf("ossify-loop: %s", said.String())
		}
		if left := output(t, "losetup", "--all"); strings.Contains(left, staging) {
			t.Errorf("loop devices are left: %s", left)
		}
		if err := os.Remove(staging); err != nil {
			t.Errorf("something is left: %v", err)
		}
		if err := os.RemoveAll(run); err != nil {
			t.Error(err)
		}
	})
	for range 500 {
		if _, err := os.Stat(p.helper); err == nil {
			return p
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("ossify-loop does not listen: %s", said.String())
	return nil
}

// part is a filesystem in a disk, in sectors.
type part struct {
	start, size int
	options     string
}

// filesystems lists the content of helper.json's filesystems in an image, and
// what blkid says of them.
func filesystems(t *testing.T, image string) string {
	t.Helper()
	return contents(t, image, part{2048, 640000, ",nouuid"}, part{642048, 204800, ""}, part{846848, 245760, ""})
}

func contents(t *testing.T, image string, parts ...part) string {
	t.Helper()
	var out strings.Builder
	dir, err := os.MkdirTemp("/var/tmp", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	for _, part := range parts {
		offset := fmt.Sprint(part.start * 512)
		fmt.Fprintf(&out, "%s\n", output(t, "blkid", "-p", "-o", "export", "-s", "LABEL", "-s", "UUID", "-s", "TYPE", "-O", offset, "-S", fmt.Sprint(part.size*512), image))
		output(t, "mount", "-o", "ro,loop,offset="+offset+",sizelimit="+fmt.Sprint(part.size*512)+part.options, image, dir)
		list := exec.Command("sh", "-euc", `cd "$1"
			find . ! -path ./lost+found ! -name new -type d -printf '%p %y %m %U:%G\n' | sort
			find . ! -type d -printf '%p %y %m %U:%G %l %n %T@\n' | sort
			find . -type f -exec sha256sum {} + | sort
			getfattr -dR -h -m - -e hex . | sort`, "sh", dir)
		text, err := list.CombinedOutput()
		output(t, "umount", dir)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		out.Write(text)
	}
	return strings.ReplaceAll(out.String(), image, "IMAGE")
}

// TestHelper fills a disk by mounts of ossify-loop, as an ordinary user, and sees
// that it is the one that root makes with the kernel's loop devices.
func TestHelper(t *testing.T) {
	ossify := program(t)
	p := newPerson(t, ossify)
	out, err := p.run("--libdir", "lib", "--export", "image", "--output-directory", "out", "helper.json")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("/var/tmp", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	output(t, ossify, "--store", filepath.Join(dir, "store"), "--libdir", "testdata/lib", "--export", "image", "--output-directory", dir, "testdata/helper.json")
	ours, theirs := filepath.Join(p.home, "out/image/disk.img"), filepath.Join(dir, "image/disk.img")
	table := func(image string) string {
		return strings.ReplaceAll(output(t, "sfdisk", "--json", image), image, "IMAGE")
	}
	if got, want := table(ours), table(theirs); got != want {
		t.Errorf("partition table\n%s\nwant\n%s", got, want)
	}
	got, want := filesystems(t, ours), filesystems(t, theirs)
	if got != want {
		t.Errorf("filesystems\n%s\nwant\n%s", got, want)
	}
	if strings.Contains(got, "user.overlay") {
		t.Errorf("there are attributes of overlay:\n%s", got)
	}
	for _, part := range []string{`LABEL=data`, "TYPE=xfs", "UUID=6e4ff95f-f662-45ee-a82a-bdf44a2d0b75", "security.capability=0x01000002", "./home/u/hard f 644 1000:1001  2"} {
		if !strings.Contains(got, part) {
			t.Errorf("%q is not in\n%s", part, got)
		}
	}

	t.Run("cached", func(t *testing.T) {
		if out, err := p.run("--libdir", "lib", "--export", "image", "--output-directory", "out", "helper.json"); err != nil || !strings.Contains(out, "0 ran") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("interrupted", func(t *testing.T) { interrupted(t, p) })
	t.Run("labels", func(t *testing.T) { labelled(t, p) })
	t.Run("writers", func(t *testing.T) { writers(t, p) })
	t.Run("refused", func(t *testing.T) { refused(t, p) })
}

// manifest is helper.json as far as tests change it.
type manifest struct {
	Version   string                       `json:"version"`
	Pipelines []map[string]json.RawMessage `json:"pipelines"`
}

// change writes a copy of helper.json whose stages of the pipeline image are what
// edit makes of them.
func (p *person) change(t *testing.T, name string, edit func([]map[string]any) []map[string]any) {
	t.Helper()
	data, err := os.ReadFile("testdata/helper.json")
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	var stages []map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m.Pipelines[1]["stages"], &stages); err != nil {
		t.Fatal(err)
	}
	if m.Pipelines[1]["stages"], err = json.Marshal(edit(stages)); err != nil {
		t.Fatal(err)
	}
	if data, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.home, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// interrupted sees that a chain of stages whose filesystems are leased begins again
// at its first stage.
func interrupted(t *testing.T, p *person) {
	set := func(stages []map[string]any, script string) []map[string]any {
		last := stages[len(stages)-1]
		return append(stages, map[string]any{"type": "org.test.run", "options": map[string]any{"script": script}, "devices": last["devices"], "mounts": last["mounts"]})
	}
	p.change(t, "fails.json", func(stages []map[string]any) []map[string]any { return set(stages, "echo no luck; exit 3") })
	out, err := p.run("--libdir", "lib", "--export", "image", "--output-directory", "failed", "fails.json")
	if err == nil || !strings.Contains(out, "no luck") || !strings.Contains(out, "org.osbuild.mkdir   ") {
		t.Fatalf("%v\n%s", err, out)
	}
	p.change(t, "works.json", func(stages []map[string]any) []map[string]any {
		// The helper's socket is not to be found in a stage.
		return set(stages, "cat /run/osbuild/mounts/etc/hostname /run/osbuild/mounts/srv/ping /run/osbuild/mounts/var/lib/f >/dev/null && "+
			"test ! -e "+filepath.Dir(p.helper)+" && ! find / -xdev -type s ! -path '/run/osbuild/*' | grep . && echo all is there")
	})
	out, err = p.run("--libdir", "lib", "--export", "image", "--output-directory", "works", "works.json")
	// The table is there; the three filesystems, subvolumes, copy, mkdir and the new one run.
	if err != nil || !strings.Contains(out, "all is there") || !strings.Contains(out, "7 ran, 3 cached") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// labelled sees that labels and inode flags of mounted files are in the disk.
func labelled(t *testing.T, p *person) {
	p.change(t, "labels.json", func(stages []map[string]any) []map[string]any {
		last := stages[len(stages)-1]
		return append(stages,
			map[string]any{"type": "org.osbuild.selinux", "devices": last["devices"], "mounts": last["mounts"], "options": map[string]any{"labels": map[string]any{
				"mount://root/etc/hostname": "system_u:object_r:hostname_etc_t:s0", "mount://data/su": "system_u:object_r:su_exec_t:s0", "mount://boot/vmlinuz": "a:b:c", "mount://root/": "system_u:object_r:root_t:s0",
				"mount://root/etc/pipe": "x:y:z"}}},
			map[string]any{"type": "org.osbuild.chattr", "devices": last["devices"], "mounts": last["mounts"], "options": map[string]any{"items": map[string]any{
				"mount://root/etc/ping": map[string]any{"immutable": true}, "mount://root/etc/pipe": map[string]any{"immutable": false}}}},
			map[string]any{"type": "org.test.run", "devices": last["devices"], "mounts": last["mounts"], "options": map[string]any{"script": "rm /run/osbuild/mounts/etc/pipe"}})
	})
	if out, err := p.run("--libdir", "lib", "--export", "image", "--output-directory", "labels", "labels.json"); err == nil || !strings.Contains(out, "only files and directories have inode flags") {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(p.home, "labels.json"))
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte(`"mount://root/etc/pipe":{"immutable":false}`), []byte(`"mount://root/etc/su":{"immutable":false}`), 1)
	if err := os.WriteFile(filepath.Join(p.home, "labels.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := p.run("--libdir", "lib", "--export", "image", "--output-directory", "labels", "labels.json"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := filesystems(t, filepath.Join(p.home, "labels/image/disk.img"))
	for name, label := range map[string]string{"etc/hostname": "system_u:object_r:hostname_etc_t:s0", "srv/su": "system_u:object_r:su_exec_t:s0", "vmlinuz": "a:b:c", ".": "system_u:object_r:root_t:s0"} {
		if want := fmt.Sprintf("security.selinux=0x%x00\n", label); !strings.Contains(got, want) {
			t.Errorf("%s has not got the label %s (%s):\n%s", name, label, want, got)
		}
	}
	if strings.Contains(got, fmt.Sprintf("%x", "x:y:z")) {
		t.Error("a file that is gone has a label")
	}
	part := filepath.Join(p.home, "labels/image/disk.img") + "?offset=" + fmt.Sprint(642048*512)
	if text := output(t, "debugfs", "-R", "stat /etc/ping", part); !strings.Contains(text, "Flags: 0x80010") {
		t.Errorf("flags: %s", text)
	}
	if text := output(t, "debugfs", "-R", "stat /etc/su", part); !strings.Contains(text, "Flags: 0x80000") {
		t.Errorf("flags: %s", text)
	}
}

// writers sees that a disk has the same content whoever writes it.
func writers(t *testing.T, p *person) {
	p.change(t, "writers.json", func([]map[string]any) []map[string]any {
		filesystem := func(kind, mountpoint, id string) map[string]any {
			return map[string]any{"type": kind, "mountpoint": mountpoint, "uuid": id, "label": "l"}
		}
		return []map[string]any{{
			"type":   "org.ossify.disk",
			"inputs": map[string]any{"tree": map[string]any{"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": []string{"name:tree"}}},
			"options": map[string]any{"filename": "disk.img", "format": "raw", "size": 700 << 20, "pttype": "gpt", "ptuuid": "d209c89e-ea5e-4fbd-b161-b461cce297e0", "partitions": []any{
				map[string]any{"start": 2048, "size": 640000, "uuid": "cb07c243-bc44-4717-853e-28852021225b", "filesystem": filesystem("KIND", "/boot", "0194fdc2-fa2f-4cc0-81d3-ff12045b73c8")},
				map[string]any{"start": 642048, "size": 600000, "uuid": "6264d520-3fb9-423f-8ab8-7a0a8e3d3562", "filesystem": filesystem("ext4", "/", "6e4ff95f-f662-45ee-a82a-bdf44a2d0b75")},
			}},
		}}
	})
	data, err := os.ReadFile(filepath.Join(p.home, "writers.json"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, way := range []string{"ext4 offline", "ext4 mounted", "ext4 auto", "xfs auto", "xfs mounted"} {
		kind, writer, _ := strings.Cut(way, " ")
		if err := os.WriteFile(filepath.Join(p.home, kind+".json"), bytes.ReplaceAll(data, []byte("KIND"), []byte(kind)), 0o644); err != nil {
			t.Fatal(err)
		}
		dir := kind + "-" + writer
		if out, err := p.run("--libdir", "lib", "--disk-writer", writer, "--export", "image", "--output-directory", dir, kind+".json"); err != nil {
			t.Fatalf("%s: %v\n%s", way, err, out)
		}
		boot := part{2048, 640000, ""}
		if kind == "xfs" {
			boot.options = ",nouuid"
		}
		got[way] = contents(t, filepath.Join(p.home, dir, "image/disk.img"), boot, part{642048, 600000, ""})
	}
	for way, content := range got {
		kind, _, _ := strings.Cut(way, " ")
		if want := strings.Replace(got["ext4 offline"], "TYPE=ext4", "TYPE="+kind, 1); content != want {
			t.Errorf("%s:\n%s\nwant\n%s", way, content, want)
		}
	}
	if out, err := p.run("--libdir", "lib", "--disk-writer", "offline", "--store", "other", "--export", "image", "--output-directory", "none", "xfs.json"); err == nil || !strings.Contains(out, "use a build root with newer xfsprogs, ext4 for /boot, or the helper ossify-loop") {
		t.Errorf("%v\n%s", err, out)
	}
}

// refused sees what is said where mounts cannot be had.
func refused(t *testing.T, p *person) {
	fails := func(want string, args ...string) {
		t.Helper()
		if out, err := p.run(args...); err == nil || !strings.Contains(out, want) || strings.Contains(out, "org.osbuild.truncate: done") {
			t.Errorf("%v: want %q\n%s", err, want, out)
		}
	}
	p.change(t, "foreign.json", func(stages []map[string]any) []map[string]any { return append(stages[:3], stages[4:]...) })
	fails(`mount "root": without root only a filesystem is mounted that an earlier stage of the pipeline makes: there is no org.osbuild.mkfs.ext4 for the same part of disk.img`,
		"--libdir", "lib", "--checkpoint", "image", "foreign.json")
	p.change(t, "between.json", func(stages []map[string]any) []map[string]any {
		raw := map[string]any{"type": "org.osbuild.mkswap", "options": map[string]any{"uuid": "8a1e2d4b-0d0c-4a51-8f4c-9a8e4f1b2c3d"}, "devices": stages[3]["devices"]}
		return append(stages[:5:5], append([]map[string]any{raw}, stages[5:]...)...)
	})
	fails("stage 5 (org.osbuild.mkswap): device \"device\": without root nothing but mounts can use the ext4", "--libdir", "lib", "--checkpoint", "image", "between.json")
	if err := os.Chmod(p.helper, 0o600); err != nil {
		t.Fatal(err)
	}
	p.change(t, "other.json", func(stages []map[string]any) []map[string]any {
		stages[3]["options"] = map[string]any{"uuid": "6e4ff95f-f662-45ee-a82a-bdf44a2d0b76"}
		return stages
	})
	fails("is for a group that you are not in: ask for sudo usermod", "--libdir", "lib", "--checkpoint", "image", "other.json")
	fails("install the helper ossify-loop (sudo make install-helper) and join its group, or write the disk with the stage org.ossify.disk", "--helper", "/nowhere", "--libdir", "lib", "--checkpoint", "image", "other.json")
}
