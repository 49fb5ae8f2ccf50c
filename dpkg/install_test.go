package dpkg

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const testEpoch = int64(1700000000)

// system opens a set of the essential test package and others.
func system(t *testing.T, debs ...testDeb) Set {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for _, d := range append(debs, systemDeb(t)) {
		paths = append(paths, d.write(t, dir))
	}
	set, err := OpenSet(context.Background(), paths)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	return set
}

// treeDir returns an empty directory that programs of other users may enter.
func treeDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func install(t *testing.T, set Set, options Options) (root, log string, err error) {
	t.Helper()
	root = treeDir(t)
	var out bytes.Buffer
	epoch := testEpoch
	options.SourceEpoch, options.Log = &epoch, &out
	mounts := mountTable(t)
	err = Install(context.Background(), set, root, options)
	if got := mountTable(t); got != mounts {
		t.Errorf("mounts were left behind:\n%s", got)
	}
	for _, name := range []string{spoolName, "usr/sbin/policy-rc.d"} {
		if _, statErr := os.Lstat(filepath.Join(root, name)); statErr == nil {
			t.Errorf("%s was left behind", name)
		}
	}
	return root, out.String(), err
}

func mountTable(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// describe lists a tree, one path a line.
func describe(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(name)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		content := ""
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			content = fmt.Sprintf(" links=%d %q", st.Nlink, data)
			if len(data) > 1000 && !strings.HasSuffix(name, "/status") {
				content = fmt.Sprintf(" links=%d %d bytes", st.Nlink, len(data))
			}
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(name); err != nil {
				return err
			}
			content = " -> " + content
		}
		rel, err := filepath.Rel(root, name)
		lines = append(lines, fmt.Sprintf("/%s: %v %d:%d @%d%s", rel, info.Mode(), st.Uid, st.Gid, info.ModTime().Unix(), content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// withDpkg installs the set as debootstrap does, by dpkg alone.
func withDpkg(t *testing.T, set Set) string {
	t.Helper()
	ctx := context.Background()
	root := treeDir(t)
	began := time.Now()
	defer unix.Umask(unix.Umask(0o022))
	if err := prepareTree(root); err != nil {
		t.Fatal(err)
	}
	debs := filepath.Join(root, "debs")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(debs, 0o755))
	file := func(p *Package) string { return "/debs/" + p.Name + ".deb" }
	for _, p := range set {
		data, err := os.ReadFile(p.Path)
		must(err)
		must(os.WriteFile(root+file(p), data, 0o644))
	}
	o := set.plan()
	tree, err := openTree(root)
	must(err)
	defer tree.close()
	for _, p := range o.base {
		entries := spoolOne(t, root, p)
		pl := newPlacer(root, tree, entries.fd, hostArch(t), func(string, bool) bool { return false })
		must(pl.place(p, entries.list, true))
	}
	// dpkg would take a directory for what is to be a link.
	must(mergeDir(root, "lib64"))
	// Only the files are wanted here; dpkg makes its database itself.
	must(os.RemoveAll(filepath.Join(root, spoolName)))
	for _, dir := range []string{"info", "triggers"} {
		must(os.RemoveAll(filepath.Join(root, adminDir, dir)))
		must(os.Mkdir(filepath.Join(root, adminDir, dir), 0o755))
	}
	must(os.WriteFile(filepath.Join(root, adminDir, "status"), nil, 0o644))
	in := &installation{set: set, opts: Options{SourceEpoch: new(int64)}}
	*in.opts.SourceEpoch = testEpoch
	j, err := newJail(root, in.environment())
	must(err)
	run := func(mode string, packages []*Package) {
		t.Helper()
		argv := []string{"/usr/bin/dpkg", "--force-unsafe-io", "--force-confdef", "--force-confold", mode}
		if mode == "--unpack" {
			argv = append(argv, "--no-triggers")
		}
		for _, p := range packages {
			if mode == "--unpack" {
				argv = append(argv, file(p))
			} else {
				argv = append(argv, p.infoName())
			}
		}
		var out bytes.Buffer
		if err := j.run(ctx, nil, nil, &out, argv...); err != nil {
			t.Fatalf("dpkg: %v\n%s", err, out.String())
		}
	}
	for _, group := range [][]*Package{o.base, o.rest, o.kernels} {
		var waiting []*Package
		for _, p := range group {
			if len(p.preDepends) > 0 && len(waiting) > 0 {
				run("--configure", waiting)
				waiting = nil
			}
			run("--unpack", []*Package{p})
			waiting = append(waiting, p)
		}
		if len(waiting) > 0 {
			run("--configure", waiting)
		}
	}
	must(j.close())
	must(os.RemoveAll(debs))
	must(clean(root, in.opts.SourceEpoch, began))
	return root
}

type oneSpool struct {
	fd   int
	list []entry
}

func spoolOne(t *testing.T, root string, p *Package) oneSpool {
	t.Helper()
	dir := filepath.Join(root, spoolName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	list, err := spoolPackage(context.Background(), fd, p, func(string, bool) bool { return false }, make([]byte, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return oneSpool{fd, list}
}

// script makes a maintainer script that logs its call.
func script(lines ...string) string {
	return "#!/bin/sh\nset -e\necho \"$DPKG_MAINTSCRIPT_PACKAGE $DPKG_MAINTSCRIPT_NAME $*\" >> /var/lib/calls\n" + strings.Join(lines, "\n") + "\n"
}

// everything is a set of packages that use all that unpacking has to respect.
func everything() []testDeb {
	return []testDeb{
		{control: "Package: alpha\nDepends: dpkg (>= 0.5), libtheta | nothing\nSection: misc", suffix: ".xz",
			members: map[string]string{
				"conffiles": "/etc/alpha.conf\n/etc/alpha.d/link.conf\n",
				"md5sums":   "0cc175b9c0f1b6a831c399e269772661  usr/share/alpha/shared\n",
				"preinst":   script("echo team:x:500: >> /etc/group", "export -p > /var/lib/alpha.preinst", "pwd >> /var/lib/alpha.preinst", "umask >> /var/lib/alpha.preinst", `test -e "${0%/*}/control"`, `echo "$0" >> /var/lib/alpha.preinst`),
				"postinst":  script("export -p > /var/lib/alpha.postinst", "cat /etc/alpha.conf >> /var/lib/alpha.postinst"),
			},
			files: []testFile{
				{path: "/etc/alpha.conf", data: "setting\n"}, {path: "/etc/alpha.d/link.conf", data: "x"},
				{path: "/usr/share/alpha/shared", data: "a"}, {path: "/usr/share/alpha/own", data: "own"},
				{path: "/usr/bin/team-tool", data: "t", mode: 0o2755, gid: 99, gname: "team"},
				{path: "/var/spool/team/", mode: 0o2770, gid: 99, gname: "team"}, {path: "/var/spool/team/in/"},
				{path: "/var/spool/team/note", link: "in"},
				{path: "/bin/oldstyle", data: "o", mode: 0o755}, {path: "/lib64/oldlib", data: "l"},
			}},
		{control: "Package: beta\nReplaces: alpha (<< 2)\nDepends: alpha", suffix: ".gz",
			files: []testFile{{path: "/usr/share/alpha/shared", data: "b"}, {path: "/usr/share/beta/", mode: 0o700}}},
		{control: "Package: gamma",
			members: map[string]string{"preinst": script(
				"dpkg-divert --package gamma --divert /usr/bin/delta-tool.real --rename --add /usr/bin/delta-tool",
				"dpkg-statoverride --add root root 4711 /usr/bin/delta-priv")},
			files: []testFile{{path: "/usr/bin/delta-tool", data: "gamma", mode: 0o755}}},
		{control: "Package: delta\nDepends: gamma\nVersion: 1:2.0~rc1-3", suffix: ".zst",
			files: []testFile{
				{path: "/usr/bin/delta-tool", data: "delta", mode: 0o755}, {path: "/usr/bin/delta-priv", data: "p", mode: 0o755},
				{path: "/usr/bin/hard-a", data: "hard", mode: 0o755}, {path: "/usr/bin/hard-b", hard: "/usr/bin/hard-a", mode: 0o755},
				{path: "/usr/bin/soft", link: "hard-a"}, {path: "/usr/share/absolute", link: "/var/lib/absolute"},
				{path: "/var/lib/absolute/"}, {path: "/usr/share/absolute/through", data: "t"}, {path: "/srv/empty/", mode: 0o711}}},
		{control: "Package: epsilon\nEssential: yes\nDepends: dpkg",
			members: map[string]string{"triggers": "# files\ninterest /usr/share/things\ninterest-noawait named\n", "postinst": script(), "conffiles": "/etc/epsilon\n"},
			files:   []testFile{{path: "/usr/share/epsilon", data: "e"}, {path: "/etc/epsilon", data: "conf"}}},
		{control: "Package: eta\nDescription: two lines \n with more \n .\n and more",
			members: map[string]string{"postinst": script("echo ready > /var/lib/eta")}},
		{control: "Package: zeta\nPre-Depends: eta\nProvides: letter (= 6)",
			members: map[string]string{"preinst": script("test -e /var/lib/eta"), "triggers": "activate-noawait named\n"},
			files:   []testFile{{path: "/usr/share/things/z", data: "z"}}},
		{control: "Package: libtheta\nMulti-Arch: same\nDepends: letter (>= 5)",
			members: map[string]string{"shlibs": "libtheta 1 libtheta\n", "postinst": script()}, files: []testFile{{path: "/usr/lib/libtheta", data: "t"}}},
		{control: "Package: image\nDepends: epsilon",
			members: map[string]string{"md5sums": "0cc175b9c0f1b6a831c399e269772661  boot/vmlinuz-1\n", "postinst": script("test -e /boot/vmlinuz-1")},
			files:   []testFile{{path: "/boot/vmlinuz-1", data: "a"}}},
		{control: "Package: image-latest\nDepends: image", members: map[string]string{"postinst": script()}},
	}
}

// TestAsDpkg wants the tree that dpkg itself makes, down to its database.
func TestAsDpkg(t *testing.T) {
	set := system(t, everything()...)
	root, log, err := install(t, set, Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	got, want := describe(t, root), describe(t, withDpkg(t, set))
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("only here:      %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("only with dpkg: %s", line)
		}
	}
	// The comparison is worth something only if all of it was there.
	for path, content := range map[string]string{
		"etc/alpha.conf": "setting\n", "usr/share/alpha/shared": "b", "usr/bin/delta-tool": "gamma",
		"usr/bin/delta-tool.real": "delta", "usr/share/absolute/through": "t",
	} {
		if data, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(data) != content {
			t.Errorf("%s: %q, %v; want %q", path, data, err, content)
		}
	}
	calls, err := os.ReadFile(filepath.Join(root, "var/lib/calls"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(calls), "epsilon postinst triggered"); n == 0 {
		t.Errorf("no trigger was processed:\n%s", calls)
	}
	if !strings.HasSuffix(string(calls), "image postinst configure \nimage-latest postinst configure \n") {
		t.Errorf("the kernel was not configured last:\n%s", calls)
	}
}
