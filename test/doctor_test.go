package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A machine on which something is not there is a namespace with another ordinary user in it:
//
//	test
//	  | ossify unshare: root of a namespace with 65537 ids
//	  |   | sh: takes things away, which root of a namespace can do to its own mounts and limits
//	  |   |   | the denier: refuses system calls; without CAP_SYS_ADMIN there, newuidmap would
//	  |   |   |   | not work below it
//	  |   |   |   | setpriv: user 1 of the namespace, whose subordinate ids are all the others
//	  |   |   |   |   | ossify doctor

// denierName is the first argument of this program as the denier; the others are the calls as
// JSON and the command.
const denierName = "deny-calls"

// denied is a system call that fails: that with the number NR, if one of the bits of Mask is set in
// that argument or Mask is 0.
type denied struct {
	NR       uint32
	Argument int
	Mask     uint32
	Errno    syscall.Errno
}

// becomeDenier makes system calls fail and becomes a command, if it was started for that.
func becomeDenier() {
	if len(os.Args) < 4 || os.Args[1] != denierName {
		return
	}
	fmt.Fprintln(os.Stderr, "the denier has failed:", deny(os.Args[2], os.Args[3:]))
	os.Exit(watcherFailed)
}

func deny(text string, command []string) error {
	var calls []denied
	if err := json.Unmarshal([]byte(text), &calls); err != nil {
		return err
	}
	const load, result = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_RET | unix.BPF_K
	const equal, anyBit = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	var p []unix.SockFilter
	for _, c := range calls {
		refuse := unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ERRNO | uint32(c.Errno)}
		p = append(p, unix.SockFilter{Code: load, K: 0})
		if c.Mask == 0 {
			p = append(p, unix.SockFilter{Code: equal, Jf: 1, K: c.NR}, refuse)
			continue
		}
		p = append(p, unix.SockFilter{Code: equal, Jf: 3, K: c.NR}, unix.SockFilter{Code: load, K: uint32(16 + 8*c.Argument)},
			unix.SockFilter{Code: anyBit, Jf: 1, K: c.Mask}, refuse)
	}
	p = append(p, unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ALLOW})
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return errno
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return unix.Exec(path, command, os.Environ())
}

// silentName is the first argument of this program as a filesystem on the directory that follows
// that answers nothing.
const silentName = "silent-files"

// becomeSilent becomes one, if this program was started for that.
func becomeSilent() {
	if len(os.Args) != 3 || os.Args[1] != silentName {
		return
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		err = unix.Mount("fuse", os.Args[2], "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40777,user_id=0,group_id=0,allow_other", f.Fd()))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "no filesystem:", err)
		os.Exit(watcherFailed)
	}
	time.Sleep(time.Hour)
	runtime.KeepAlive(f)
}

// noNamespaces refuses user namespaces.
func noNamespaces(errno syscall.Errno) []denied {
	return []denied{
		{NR: unix.SYS_CLONE, Mask: unix.CLONE_NEWUSER, Errno: errno},
		{NR: unix.SYS_UNSHARE, Mask: unix.CLONE_NEWUSER, Errno: errno},
		{NR: unix.SYS_CLONE3, Errno: unix.ENOSYS},
	}
}

// newMachine makes, as root of a namespace, the machine of the user inner; $DIR is on the disk, what is
// in /mnt goes with the namespace.
const newMachine = `set -e
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/bin /mnt/closed
cp "$OSSIFY" /mnt/bin/ossify
cp /usr/bin/newuidmap /usr/bin/newgidmap /mnt
chmod 4755 /mnt/newuidmap /mnt/newgidmap
echo 'inner:2:65535' >/mnt/subuid
cp /mnt/subuid /mnt/subgid
printf 'root:x:0:0::/:/bin/sh\ninner:x:1:1::/:/bin/sh\n' >/mnt/passwd
printf 'helped:x:5:\ninner:x:1:\n' >/mnt/group
: >/mnt/empty
for f in passwd group subuid subgid; do mount --bind /mnt/$f /etc/$f; done
for f in newuidmap newgidmap; do mount --bind /mnt/$f /usr/bin/$f; done
hide() { mount --bind /mnt/empty "$1"; }
cover() { mount -t tmpfs -o "$2" none "$1"; }
rm -rf "$DIR/inner"
mkdir "$DIR/inner"
chown 1:1 "$DIR/inner"
chmod 711 "$DIR"
`

// asInner runs a command as inner; it is the whole environment of it.
const asInner = `as_inner() { "$@" setpriv --reuid 1 --regid 1 --clear-groups $SETPRIV env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "OSSIFY_STORE=$DIR/inner/store" $ENV /mnt/bin/ossify doctor $ARGS; }
`

// found is what doctor prints with --json.
type diagnosis struct {
	State  string
	Checks []struct{ Name, State, Found, Fix, Lost string }
}

// doctorCase is a machine and what is told of it.
type doctorCase struct {
	name string
	// before is done by root of the namespace.
	before string
	deny   []denied
	// env are variables for inner, args are for doctor, setpriv is for setpriv(1).
	env, args, setpriv string
	// want are checks that are not ok.
	want []wanted
}

type wanted struct{ check, state, found, fix string }

func missing(check, found, fix string) []wanted { return []wanted{{check, "missing", found, fix}} }

func degraded(check, found, fix string) []wanted { return []wanted{{check, "degraded", found, fix}} }

// noBuild adds what cannot be without user namespaces.
func noBuild(w []wanted) []wanted {
	return append(w, wanted{"build namespace", "missing", "", ""}, wanted{"containers", "missing", "not tried", ""})
}

// TestDoctor takes away what builds need, one thing after the other.
func TestDoctor(t *testing.T) {
	dir := workDir(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sockets := helperSockets(t)
	const elsewhere = "export OSSIFY_STORE=/var/tmp/ossify-$USER"
	install := func(pkg string) string { return "install " + pkg }
	cases := []doctorCase{
		{name: "nothing"},
		{name: "kernel", before: `set -- setarch --uname-2.6`, want: missing("kernel", "5.13 or later is needed", "start Linux 5.13")},

		{name: "no user namespaces", before: "echo 0 >/proc/sys/user/max_user_namespaces",
			want: append(noBuild(missing("user namespaces", "max_user_namespaces is 0", "sudo sysctl user.max_user_namespaces=15000")), wanted{"overlay mounts", "missing", "not tried", ""})},
		{name: "one user namespace", before: "echo 1 >/proc/sys/user/max_user_namespaces; setpriv --reuid 1 --regid 1 --clear-groups unshare -U sleep 1000 & echo $! >/mnt/pid; sleep 0.3",
			want: append(noBuild(missing("user namespaces", "as many user namespaces as there may be", "sudo sysctl user.max_user_namespaces=15000")), wanted{"overlay mounts", "missing", "not tried", ""})},
		{name: "Debian's switch", before: "cover /proc/sys/kernel mode=755; echo 0 >/proc/sys/kernel/unprivileged_userns_clone", deny: noNamespaces(unix.EPERM),
			want: append(noBuild(missing("user namespaces", "unprivileged_userns_clone is 0", "sudo sysctl kernel.unprivileged_userns_clone=1")), wanted{"overlay mounts", "missing", "not tried", ""})},
		{name: "AppArmor", before: "cover /proc/sys/kernel mode=755; echo 1 >/proc/sys/kernel/apparmor_restrict_unprivileged_userns", deny: noNamespaces(unix.EPERM),
			want: append(noBuild(missing("user namespaces", "AppArmor does not let", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0")), wanted{"overlay mounts", "missing", "not tried", ""})},
		{name: "SELinux", before: "cover /sys/fs mode=755; mkdir /sys/fs/selinux; echo 1 >/sys/fs/selinux/enforce", deny: noNamespaces(unix.EACCES),
			want: append(noBuild(missing("user namespaces", "SELinux does not let", "sudo semodule -i ossify.pp")), wanted{"overlay mounts", "missing", "not tried", ""})},
		{name: "a container's filter", deny: noNamespaces(unix.EPERM),
			want: append(noBuild(missing("user namespaces", "a system-call filter", "--security-opt seccomp=unconfined")), wanted{"overlay mounts", "missing", "not tried", ""})},
		{name: "a kernel without them", deny: noNamespaces(unix.EINVAL),
			want: append(noBuild(missing("user namespaces", "the kernel has no user namespaces", "CONFIG_USER_NS")), wanted{"overlay mounts", "missing", "not tried", ""})},

		{name: "no subordinate ids", before: ": >/etc/subuid; : >/etc/subgid",
			want: noBuild(missing("subordinate ids", "user inner has no subordinate ids", "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 inner"))},
		{name: "others' ids", before: "echo other:100000:65536 >/etc/subuid; echo other:200000:65536 >/etc/subgid",
			want: noBuild(missing("subordinate ids", "inner has no subordinate ids", "--add-subuids 265536-331071 --add-subgids 265536-331071 inner"))},
		{name: "few group ids", before: "echo inner:2:1000 >/etc/subgid",
			want: noBuild(missing("subordinate ids", "65535 subordinate user ids and 1000 group ids", "sudo usermod --add-subuids"))},
		{name: "no /etc/passwd", before: "echo root:x:0:0::/:/bin/sh >/etc/passwd",
			want: noBuild(missing("subordinate ids", "user id 1 has no name", "sudo tee -a /etc/passwd"))},

		{name: "no newuidmap", before: "umount /usr/bin/newuidmap; hide /usr/bin/newuidmap",
			want: noBuild(missing("newuidmap, newgidmap", "newuidmap is not installed", "install "))},
		{name: "no newgidmap", before: "umount /usr/bin/newgidmap; hide /usr/bin/newgidmap",
			want: noBuild(missing("newuidmap, newgidmap", "newgidmap is not installed", "install "))},
		{name: "Fedora without newuidmap", before: "hide /usr/bin/newuidmap; echo ID=fedora >/mnt/os-release; mount --bind /mnt/os-release /etc/os-release",
			want: noBuild(missing("newuidmap, newgidmap", "newuidmap is not installed", "sudo dnf install shadow-utils"))},
		{name: "newuidmap outside of PATH", env: "PATH=/mnt/bin",
			want: append(noBuild(missing("newuidmap, newgidmap", "newuidmap is in /usr/bin, but", "export PATH=/usr/sbin:/usr/bin:")), degraded("QEMU", "is not installed", "install ")...)},
		{name: "newuidmap without setuid", before: "chmod 755 /mnt/newuidmap",
			want: noBuild(missing("newuidmap, newgidmap", "/usr/bin/newuidmap has neither the setuid bit nor file capabilities", "sudo chmod u+s /usr/bin/newuidmap"))},
		{name: "newuidmap on nosuid", before: "mount -o remount,bind,nosuid /usr/bin/newuidmap",
			want: noBuild(missing("newuidmap, newgidmap", "mounted nosuid", "sudo mount -o remount,suid /usr/bin/newuidmap"))},
		{name: "newuidmap with capabilities", before: "chmod 755 /mnt/newuidmap /mnt/newgidmap; setcap cap_setuid=ep /mnt/newuidmap; setcap cap_setgid=ep /mnt/newgidmap"},
		{name: "newgidmap that fails", before: "cp /bin/false /mnt/newgidmap; chmod 4755 /mnt/newgidmap",
			want: noBuild(missing("newuidmap, newgidmap", "/usr/bin/newgidmap does not work: exit status 1", "install"))},
		{name: "another newuidmap", before: `printf '#!/bin/sh\necho nothing here\nexit 1\n' >/mnt/bin/newuidmap; chmod 755 /mnt/bin/newuidmap`, env: "PATH=/mnt/bin:/usr/bin:/bin",
			want: noBuild(missing("newuidmap, newgidmap", "/mnt/bin/newuidmap does not work: nothing here; the system's is /usr/bin/newuidmap", "export PATH=/usr/bin:$PATH"))},
		{name: "no_new_privs", setpriv: "--no-new-privs",
			want: noBuild(missing("newuidmap, newgidmap", "this process has no_new_privs", "no-new-privileges=false"))},

		{name: "masked /proc", before: "cover /proc/fs mode=755",
			want: missing("containers", "a container cannot mount a /proc of its own", "--security-opt unmask=ALL")},
		{name: "no network namespaces", before: "echo 0 >/proc/sys/user/max_net_namespaces",
			want: missing("containers", "no space left on device", "namespaces=15000")},

		{name: "no overlay", deny: []denied{{NR: unix.SYS_FSOPEN, Errno: unix.ENODEV}},
			want: missing("overlay mounts", "no such device", "sudo modprobe overlay")},
		{name: "no overlay for users", deny: []denied{{NR: unix.SYS_FSOPEN, Errno: unix.EPERM}},
			want: missing("overlay mounts", "operation not permitted", "sudo dmesg")},
		{name: "a store without attributes", before: `mount -t ramfs none "$DIR/inner"; chmod 777 "$DIR/inner"`,
			want: append(missing("overlay mounts", "fail on ramfs", elsewhere), wanted{"disk space", "degraded", "none on ramfs", ""})},

		{name: "read-only store", before: `mount --bind "$DIR/inner" "$DIR/inner"; mount -o remount,bind,ro "$DIR/inner"`,
			want: append(missing("store", "read-only file system", elsewhere), wanted{"overlay mounts", "missing", "not tried", ""})},
		{name: "closed store", before: `chown 0:0 "$DIR/inner"; chmod 755 "$DIR/inner"`,
			want: append(missing("store", "permission denied", elsewhere), wanted{"overlay mounts", "missing", "not tried", ""})},
		{name: "a file as store", before: `: >"$DIR/inner/store"`,
			want: append(missing("store", "is no directory", elsewhere), wanted{"overlay mounts", "missing", "not tried", ""}, wanted{"disk space", "degraded", "not known", ""})},
		{name: "damaged store", before: `mkdir -p "$DIR/inner/store/storage/overlay-layers"; echo '[{' >"$DIR/inner/store/storage/overlay-layers/layers.json"; chown -R 1:1 "$DIR/inner"`,
			want: missing("store", "is damaged", "ossify store check --repair --store ")},
		{name: "a store that cannot be opened", before: `mkdir "$DIR/inner/store"; : >"$DIR/inner/store/storage"; chown -R 1:1 "$DIR/inner"`,
			want: missing("store", "not a directory", "ossify unshare rm -rf ")},
		{name: "a small disk", before: `cover "$DIR/inner" mode=777,size=1g`,
			want: degraded("disk space", "1.0 GiB free", "df -h")},
		{name: "a full disk", before: `cover "$DIR/inner" mode=777,size=16m`,
			want: missing("disk space", "MiB free", "df -h")},
		{name: "few files", before: `cover "$DIR/inner" mode=777,size=8g,nr_inodes=500`,
			want: degraded("disk space", "files more fit", "df -h")},
		{name: "a small disk with a store", before: `cover "$DIR/inner" mode=777,size=1g; mkdir "$DIR/inner/store"; chown 1:1 "$DIR/inner/store"`,
			want: degraded("disk space", "1.0 GiB free", "ossify store prune --keep-last 1 --store ")},

		{name: "full /tmp", before: "cover /tmp mode=1777,size=16k; dd if=/dev/zero of=/tmp/filler bs=1k count=64 2>/dev/null || true",
			want: degraded("temporary files", "no space left on device", "du -xah /tmp")},
		{name: "read-only /tmp", before: "cover /tmp mode=1777; mount -o remount,ro /tmp",
			want: degraded("temporary files", "read-only file system", "sudo mount -o remount,rw")},
		{name: "closed /tmp", before: "cover /tmp mode=755",
			want: degraded("temporary files", "permission denied", "sudo chmod 1777 /tmp")},
		{name: "no TMPDIR", env: "TMPDIR=/missing",
			want: degraded("temporary files", "/missing cannot be written to", "unset TMPDIR")},

		{name: "seccomp taken", deny: []denied{{NR: unix.SYS_SECCOMP, Argument: 1, Mask: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, Errno: unix.EBUSY}},
			want: missing("seccomp", "no user notification", "outside of that container")},
		{name: "no seccomp", deny: []denied{{NR: unix.SYS_SECCOMP, Errno: unix.EINVAL}},
			want: missing("seccomp", "cannot be loaded", "CONFIG_SECCOMP_FILTER")},
		{name: "landlock off", deny: []denied{{NR: unix.SYS_LANDLOCK_CREATE_RULESET, Errno: unix.EOPNOTSUPP}},
			want: degraded("landlock", "it is off", "lsm=landlock")},
		{name: "no landlock", deny: []denied{{NR: unix.SYS_LANDLOCK_CREATE_RULESET, Errno: unix.ENOSYS}},
			want: degraded("landlock", "the kernel has none", "Linux 6.12")},
		{name: "closed /dev/fuse", before: "chmod 600 /mnt/empty; hide /dev/fuse",
			want: degraded("/dev/fuse", "permission denied", "sudo chmod 0666 /dev/fuse")},

		{name: "cgroups of version 2", before: `set -- unshare --cgroup --mount sh -c 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"' sh`,
			want: []wanted{{"cgroups", "ok", "version 2; ossify looks itself at what stages use: ", ""}}},

		{name: "no boot loader", before: "hide /usr/bin/grub-mkimage", want: degraded("boot loader", "grub-mkimage", install("grub-common"))},
		{name: "no modules of the boot loader", before: "cover /usr/lib/grub mode=755; mkdir /usr/lib/grub/x86_64-efi", want: degraded("boot loader", "/usr/lib/grub/i386-pc", install("grub-pc-bin"))},
		{name: "no apt", before: "hide /usr/bin/apt-get; cover /usr/share/keyrings mode=755", want: degraded("apt", "debian-archive-keyring.gpg is not there", install("apt gpgv"))},
		{name: "no dnf", before: "cover /usr/lib/python3/dist-packages mode=755", want: degraded("dnf", "dnf for Python is not installed", install("python3-dnf"))},
		{name: "no QEMU", before: "hide /usr/bin/qemu-system-x86_64", want: degraded("QEMU", "is not installed", install("qemu-system-x86"))},
		{name: "no firmware", before: "cover /usr/share/OVMF mode=755", want: degraded("UEFI firmware", "OVMF is not installed", install("ovmf"))},

		{name: "no helper", args: "--helper /mnt/none", want: degraded("ossify-loop", "there is no /mnt/none", "sudo ")},
		{name: "a helper that has ended", args: "--helper " + sockets.dead, want: degraded("ossify-loop", "nobody listens", "sudo ")},
		{name: "no socket of a helper", args: "--helper /etc/passwd", want: degraded("ossify-loop", "/etc/passwd is no socket", "unset OSSIFY_HELPER")},
		{name: "root's helper", args: "--helper " + sockets.closed, before: "chgrp 0 " + sockets.closed,
			want: degraded("ossify-loop", "its group is root's", "sudo make install-helper")},
		{name: "another helper", args: "--helper " + sockets.other, want: degraded("ossify-loop", "no reply of ossify-loop", "sudo make install-helper")},
		{name: "a helper for others", args: "--helper " + sockets.closed, before: "chgrp 5 " + sockets.closed,
			want: degraded("ossify-loop", "you are not in the group helped", "sudo usermod --append --groups helped inner")},
		{name: "a session before the group", args: "--helper " + sockets.closed, before: "chgrp 5 " + sockets.closed + "; echo helped:x:5:inner >/etc/group",
			want: degraded("ossify-loop", "this session began before", "newgrp helped")},

		// These do not answer.
		{name: "silence", args: "--helper " + sockets.silent, env: "PATH=/mnt/bin:/usr/bin:/bin",
			before: `printf '#!/bin/sh\nexec sleep 1000\n' >/mnt/bin/newuidmap; chmod 755 /mnt/bin/newuidmap`,
			want:   append(noBuild(missing("newuidmap, newgidmap", "no answer in time", "")), degraded("ossify-loop", "no answer", "sudo ")...)},
		{name: "a silent filesystem", before: `"$SELF" ` + silentName + ` "$DIR/inner" & echo $! >/mnt/pid; until grep -q "$DIR/inner fuse" /proc/self/mounts; do sleep 0.1; done`,
			want: append(missing("overlay mounts", "no answer", ""), wanted{"store", "missing", "no answer", ""}, wanted{"disk space", "degraded", "no answer", ""})},
		{name: "a store in use for ever", before: `mkdir "$DIR/inner/store"; flock -F -x "$DIR/inner/store/use.lock" sleep 1000 & echo $! >/mnt/pid; sleep 0.3; chown -R 1:1 "$DIR/inner"`,
			want: missing("store", "no answer in time", "")},
	}
	for _, c := range []struct{ program, check, pkg string }{
		{"/usr/sbin/mke2fs", "ext4, FAT", "e2fsprogs"}, {"/usr/sbin/debugfs", "ext4, FAT", "e2fsprogs"},
		{"/usr/sbin/mkfs.vfat", "ext4, FAT", "dosfstools"}, {"/usr/bin/mcopy", "ext4, FAT", "mtools"},
		{"/usr/sbin/mkfs.xfs", "xfs", "xfsprogs"}, {"/usr/bin/mkfs.btrfs", "btrfs", "btrfs-progs"},
		{"/usr/bin/xz", "archives", "xz-utils"}, {"/usr/bin/zstd", "archives", "zstd"},
		{"/usr/bin/qemu-img", "image formats", "qemu-utils"}, {"/usr/bin/mksquashfs", "installation media", "squashfs-tools"},
		{"/usr/bin/mkfs.erofs", "installation media", "erofs-utils"}, {"/usr/bin/xorrisofs", "installation media", "xorriso"},
		{"/usr/bin/skopeo", "containers in images", "skopeo"}, {"/usr/bin/rpm", "RPM packages", "rpm"},
	} {
		cases = append(cases, doctorCase{name: "no " + filepath.Base(c.program), before: "hide $(command -v " + filepath.Base(c.program) + ")",
			want: degraded(c.check, "not installed", install(c.pkg))})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, dir, self) })
	}
}

// usual are checks of which it depends on the machine what they find.
var usual = []string{"KVM", "ossify-loop"}

func (c doctorCase) run(t *testing.T, dir, self string) {
	calls, err := json.Marshal(c.deny)
	if err != nil {
		t.Fatal(err)
	}
	launch := `"$@"`
	if len(c.deny) > 0 {
		launch = `"$SELF" ` + denierName + ` "$CALLS" "$@"`
	}
	script := newMachine + asInner + c.before + "\nset +e\nas_inner " + launch + "\nstatus=$?\ntest ! -e /mnt/pid || kill $(cat /mnt/pid)\nexit $status\n"
	if c.args == "" {
		c.args = "--json"
	} else {
		c.args += " --json"
	}
	cmd := exec.Command(program(t), "unshare", "sh", "-c", script, "sh", "env")
	cmd.Env = append(os.Environ(), "DIR="+dir, "OSSIFY="+program(t), "SELF="+self, "CALLS="+string(calls),
		"ENV="+c.env, "ARGS="+c.args, "SETPRIV="+c.setpriv)
	var out bytes.Buffer
	cmd.Stdout = &out
	b := &faultyBuild{t: t, dir: dir}
	status, stderr := b.run(c.name, cmd)
	var d diagnosis
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatalf("status %d, %v\n%s\n%s", status, err, &out, stderr)
	}
	if stderr != "" {
		t.Errorf("standard error:\n%s", stderr)
	}
	worst := "ok"
	for _, check := range d.Checks {
		i := slices.IndexFunc(c.want, func(w wanted) bool { return w.check == check.Name })
		switch {
		case i >= 0 && (check.State != c.want[i].state || !strings.Contains(check.Found, c.want[i].found) || !strings.Contains(check.Fix, c.want[i].fix)):
			t.Errorf("%+v, want %+v", check, c.want[i])
		case i < 0 && check.State != "ok" && !slices.Contains(usual, check.Name):
			t.Errorf("%+v, want it ok", check)
		case check.State == "ok" && check.Fix+check.Lost != "", check.State != "ok" && (check.Fix == "") != (check.Lost == ""), check.Found == "":
			t.Errorf("%+v", check)
		}
		if check.State == "missing" || worst == "ok" {
			worst = check.State
		}
	}
	for _, w := range c.want {
		if !strings.Contains(out.String(), strconv.Quote(w.check)) {
			t.Errorf("there is no check %q", w.check)
		}
	}
	wantStatus := map[bool]int{true: 1}[worst == "missing"]
	if d.State != worst || status != wantStatus {
		t.Errorf("state %s, status %d, want %s and %d", d.State, status, worst, wantStatus)
	}
	if testing.Verbose() {
		for _, w := range c.want {
			for _, check := range d.Checks {
				if check.Name == w.check {
					t.Logf("%s: %s\n  fix: %s", check.Name, check.Found, check.Fix)
				}
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "inner/.ossify-doctor-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// helperSockets are where ossify-loop could listen.
type helperPaths struct{ dead, silent, other, closed string }

func helperSockets(t *testing.T) (h helperPaths) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "ossify-sockets-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	listen := func(name string, mode os.FileMode) (string, *net.UnixListener) {
		path := filepath.Join(dir, name)
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path, l
	}
	var l *net.UnixListener
	h.silent, _ = listen("silent", 0o666)
	h.closed, _ = listen("closed", 0o660)
	h.dead, l = listen("dead", 0o666)
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	h.other, l = listen("other", 0o666)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{9, 0, 0, 0}) // a frame of version 9
			c.Close()
		}
	}()
	return h
}
