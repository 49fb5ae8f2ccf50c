package dpkg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestInstallRefuses(t *testing.T) {
	tests := []struct {
		name    string
		debs    []testDeb
		options Options
		want    []string
	}{
		{"postinst", []testDeb{{control: "Package: a", members: map[string]string{"postinst": "#!/bin/sh\necho cannot go on\nexit 3\n"}}}, Options{},
			[]string{"package a: configure packages", "cannot go on", "exit status 3"}},
		{"preinst", []testDeb{{control: "Package: a", members: map[string]string{"preinst": "#!/bin/sh\necho not here >&2\nexit 4\n"}}}, Options{},
			[]string{"package a: preinst script: exit status 4", "not here"}},
		{"trigger", []testDeb{
			{control: "Package: a\nEssential: yes", members: map[string]string{"triggers": "interest /srv\n", "postinst": "#!/bin/sh\ntest $1 = configure || { echo no trigger; exit 5; }\n"}},
			{control: "Package: b", files: []testFile{{path: "/srv/x"}}}}, Options{},
			[]string{"package a: configure packages", "no trigger"}},
		{"missing", []testDeb{{control: "Package: a\nDepends: b (>= 2) | c, dpkg"}, {control: "Package: b"}}, Options{},
			[]string{"a depends on b (>= 2) | c, which no package provides"}},
		{"same file", []testDeb{{control: "Package: a", files: []testFile{{path: "/srv/x"}}}, {control: "Package: b", files: []testFile{{path: "/srv/x"}}}}, Options{},
			[]string{"unpack package b: /srv/x is also in package a, which it does not replace"}},
		{"architecture", []testDeb{{control: "Package: a\nArchitecture: alpha"}}, Options{}, []string{"is for the architecture", "alpha"}},
		{"other architecture", nil, Options{Arch: "alpha"}, []string{"package dpkg is for the architecture", "the tree is for alpha"}},
		{"no conffile", []testDeb{{control: "Package: a", members: map[string]string{"conffiles": "/etc/a\n"}}}, Options{},
			[]string{"its configuration file /etc/a is not in it"}},
		{"debconf", nil, Options{Debconf: []string{"a a/b string c"}}, []string{"no package brings debconf-set-selections"}},
		{"no postinst interpreter", []testDeb{{control: "Package: a", members: map[string]string{"postinst": "#!/bin/none\n"}}}, Options{}, []string{"package a:"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := install(t, system(t, test.debs...), test.options)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q: %v", want, err)
				}
			}
		})
	}
}

func TestInstallTwiceIsTheSame(t *testing.T) {
	set := system(t, everything()...)
	var trees [2][]string
	for i := range trees {
		root, log, err := install(t, set, Options{})
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		trees[i] = describe(t, root)
	}
	if !slices.Equal(trees[0], trees[1]) {
		t.Errorf("two installations differ:\n%s\n\n%s", strings.Join(trees[0], "\n"), strings.Join(trees[1], "\n"))
	}
}

// TestInside wants scripts to see what they need, start nothing and leave
// nothing.
func TestInside(t *testing.T) {
	const postinst = `#!/bin/sh
set -e
test -c /dev/null && echo x > /dev/null && test -d /proc/self && test -L /dev/stdin
echo left > /run/left
echo left > /tmp/left
/usr/sbin/policy-rc.d ssh start && exit 1 || test $? = 101
/usr/sbin/start-stop-daemon --start --exec /bin/false
uname -n > /var/lib/name
touchme=$(id -u)
test "$touchme" = 0
sleep 100000 &
echo 12345 > /etc/machine-id
echo log > /var/log/alternatives.log
mkdir /etc/ssh /etc/ssl /etc/ssl/private
echo secret > /etc/ssh/ssh_host_rsa_key
echo secret > /etc/ssl/private/ssl-cert-snakeoil.key
`
	root, log, err := install(t, system(t, testDeb{control: "Package: a", members: map[string]string{"postinst": postinst}}), Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	for _, dir := range []string{"dev", "run", "tmp", "proc", "etc/ssh", "etc/ssl/private", "var/log"} {
		if names, err := os.ReadDir(filepath.Join(root, dir)); err != nil || len(names) > 0 {
			t.Errorf("/%s holds %v, %v; want it empty", dir, names, err)
		}
	}
	for path, want := range map[string]string{"var/lib/name": "localhost\n", "etc/machine-id": ""} {
		if got, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	procs, err := filepath.Glob("/proc/[0-9]*/root")
	if err != nil {
		t.Fatal(err)
	}
	for _, proc := range procs {
		if to, _ := os.Readlink(proc); strings.HasPrefix(to, root) {
			t.Errorf("%s is %s: a process was left behind", proc, to)
		}
	}
}

func TestInstallCancelled(t *testing.T) {
	set := system(t, testDeb{control: "Package: a", members: map[string]string{"postinst": "#!/bin/sh\necho started\nsleep 100000\n"}})
	ctx, cancel := context.WithCancel(context.Background())
	root := treeDir(t)
	err := Install(ctx, set, root, Options{Log: writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "started") {
			cancel()
		}
		return len(p), nil
	})})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want one of a cancelled context", err)
	}
	if _, err := os.Lstat(filepath.Join(root, spoolName)); err == nil {
		t.Error("the spool was left behind")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestExcludeDocs(t *testing.T) {
	root, log, err := install(t, system(t, testDeb{control: "Package: a", files: []testFile{
		{path: "/usr/share/doc/a/copyright", data: "c"}, {path: "/usr/share/doc/a/changelog.gz", data: "c"},
		{path: "/usr/share/doc/a/examples/x", data: "c"}, {path: "/usr/share/doc/b", link: "a"},
		{path: "/usr/share/man/man1/a.1.gz", data: "c"}, {path: "/usr/share/locale/de/a.mo", data: "c"},
		{path: "/usr/share/locale/locale.alias", data: "c"}, {path: "/usr/share/a", data: "c"},
	}}), Options{ExcludeDocs: true})
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	var got []string
	for _, line := range describe(t, filepath.Join(root, "usr/share")) {
		name, _, _ := strings.Cut(line, ": ")
		got = append(got, name)
	}
	want := []string{"/.", "/a", "/doc", "/doc/a", "/doc/a/copyright", "/doc/b", "/locale", "/locale/locale.alias", "/man"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestTreeBefore wants configuration that is there before to stay, other files
// to be replaced, and a tree with packages or without merged /usr refused.
func TestTreeBefore(t *testing.T) {
	set := system(t,
		testDeb{control: "Package: base\nEssential: yes", members: map[string]string{"conffiles": "/etc/base\n"}, files: []testFile{{path: "/etc/base", data: "package"}}},
		testDeb{control: "Package: rest", members: map[string]string{"conffiles": "/etc/rest\n"},
			files: []testFile{{path: "/etc/rest", data: "package"}, {path: "/usr/rest", data: "package"}}})
	root := treeDir(t)
	for name, data := range map[string]string{"etc/base": "mine", "etc/rest": "mine", "usr/rest": "mine"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Install(context.Background(), set, root, Options{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"etc/base": "mine", "etc/rest": "mine", "usr/rest": "package"} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if err := Install(context.Background(), set, root, Options{}); err == nil || !strings.Contains(err.Error(), "has packages already") {
		t.Errorf("second installation: error %v", err)
	}
	unmerged := treeDir(t)
	if err := os.Mkdir(filepath.Join(unmerged, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Install(context.Background(), set, unmerged, Options{}); err == nil || !strings.Contains(err.Error(), "merged /usr") {
		t.Errorf("tree with /lib: error %v", err)
	}
}
