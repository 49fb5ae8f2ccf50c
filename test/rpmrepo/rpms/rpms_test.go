package rpms

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/test/namespace"
)

// Installing packages needs their owners and chroot(2).
func TestMain(m *testing.M) { namespace.Main(m, func() error { return nil }) }

func output(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", argv[0], err, out)
	}
	return string(out)
}

func cached(t *testing.T) string {
	t.Helper()
	dir, err := Cached(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSignatures(t *testing.T) {
	dir := cached(t)
	db := t.TempDir()
	output(t, "rpmkeys", "--dbpath", db, "--import", filepath.Join(dir, "RPM-GPG-KEY-test"))
	paths, err := filepath.Glob(filepath.Join(dir, Releases, "Packages/*.rpm"))
	if err != nil || len(paths) < 100 {
		t.Fatalf("%d packages, %v", len(paths), err)
	}
	// It fails for those that are not signed well.
	out, err := exec.Command("rpmkeys", append([]string{"--dbpath", db, "--checksig"}, paths...)...).CombinedOutput()
	if err == nil {
		t.Error("every signature is accepted")
	}
	for line := range strings.Lines(string(out)) {
		good := strings.HasSuffix(line, "digests signatures OK\n")
		bad := strings.Contains(line, "test-unsigned") || strings.Contains(line, "test-foreign-1")
		if good == bad {
			t.Error(line)
		}
	}
}

// The packages make a system whose programs run.
func TestSystem(t *testing.T) {
	dir := filepath.Join(cached(t), Releases, "Packages")
	var paths []string
	all, err := filepath.Glob(filepath.Join(dir, "*.rpm"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		name := filepath.Base(p)
		if !strings.HasPrefix(name, "test-") || strings.HasPrefix(name, "test-scripts-") || strings.HasPrefix(name, "test-files-") {
			paths = append(paths, p)
		}
	}
	tree := t.TempDir()
	t.Log(output(t, append([]string{"rpm", "--root", tree, "--dbpath", "/usr/lib/sysimage/rpm", "--nosignature", "-i"}, paths...)...))
	for _, c := range []struct{ command, want string }{
		{"cat /var/lib/test-scripts/log", "pre 1\npost 1\nposttrans 1\n"},
		{"stat -c '%U %G %a' /var/lib/test-scripts/data", "test-daemon test-daemon 640\n"},
		{"stat -c '%a' /usr/bin/test-setuid /var/spool/test-files", "4755\n1777\n"},
		{"getcap /usr/bin/test-ping", "/usr/bin/test-ping cap_net_raw=ep\n"},
		{"rpm -V test-files bash coreutils", ""},
		{"rpm -q --qf '%{name} %{arch}\\n' kernel-core | sort -u", "kernel-core x86_64\n"},
		{"useradd -m bob && id -un bob && echo bob:secret | chpasswd", "bob\n"},
		{"echo a b | awk '{ print $2 }' | sed s/b/c/ | grep c", "c\n"},
		{"/usr/bin/python3 -c 'import dnf; print(dnf.Base.__name__)'", "Base\n"},
		{"systemctl --root=/ --quiet enable getty@tty2 && systemctl --root=/ is-enabled getty@tty2", "enabled\n"},
		{"for f in /usr/bin/* /usr/sbin/* /usr/lib/systemd/systemd; do ldd $f | grep 'not found'; done 2>&1 | grep = || echo none", "none\n"},
	} {
		out, err := exec.Command("chroot", tree, "/bin/bash", "-c", c.command).CombinedOutput()
		if err != nil || string(out) != c.want {
			t.Errorf("%s: %v: %q, want %q", c.command, err, out, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(tree, "test-pretrans")); err != nil {
		t.Errorf("the Lua script did not run: %v", err)
	}
}
