package runners

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"github.com/ossify/ossify/module"
)

// family is a group of distributions that are set up in the same way.
type family struct {
	// nogroup is the name of the group 65534.
	nogroup string
	// systemd is set if systemd's files say which users and folders there are.
	systemd bool
	// machineID is set if programs of the build root want one.
	machineID bool
}

// The families, and what osbuild's runners do for them (osbuild/util/runners.py).
func anyLinux() family { return family{nogroup: "nogroup"} }
func debian() family   { return family{nogroup: "nogroup", systemd: true} }
func redHat() family   { return family{nogroup: "nobody", systemd: true, machineID: true} }

// runner makes a table entry: it sets the build root up and becomes the command.
func runner(name string, f family) module.Module {
	return module.Module{Name: name, Main: func(ctx context.Context, argv []string) error {
		if len(argv) == 0 {
			return fmt.Errorf("%s is a runner and is started by ossify inside a build root, with a command", name)
		}
		s := &setUp{family: f, root: "/", run: func(tool string, args ...string) ([]byte, error) {
			return runTool(ctx, tool, args...)
		}}
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return become(argv)
	}}
}

// become replaces the process by the command; it returns only if that fails.
func become(argv []string) error {
	path := argv[0]
	if !strings.Contains(path, "/") {
		found, err := module.LookTool(path)
		if err != nil {
			return err
		}
		path = found
	}
	if err := syscall.Exec(path, argv, os.Environ()); err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	return nil
}

func runTool(ctx context.Context, tool string, args ...string) ([]byte, error) {
	path, err := module.LookTool(tool)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	// systemd-sysusers would write today's date into /etc/shadow.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SOURCE_DATE_EPOCH=0")
	return cmd.CombinedOutput()
}

// setUp makes of an empty /etc and /var what programs of a build root need.
type setUp struct {
	family family
	// root is the build root's root directory.
	root string
	// run runs a program of the build root and returns what it printed.
	run func(tool string, args ...string) ([]byte, error)
}

func (s *setUp) do() error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"set up the linker", s.linker},
		{"set up os-release", s.osRelease},
		{"set up users", s.users},
		{"set up the machine id", s.machineID},
		{"set up folders", s.tmpfiles},
		{"set up nsswitch.conf", s.nsswitch},
		{"set up crypto-policies", s.cryptoPolicies},
		{"set up python3", s.python},
		{"set up certificates", s.debianCerts},
		{"set up certificates", s.redHatCerts},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// path is where a file of the build root is.
func (s *setUp) path(name string) string { return filepath.Join(s.root, name) }

// write writes a file whatever the umask is, instead of what is at its place.
func (s *setUp) write(name, content string, mode fs.FileMode) error {
	path := s.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// link makes a symbolic link unless something is at its place, or its folder is
// one of the build root's own.
func (s *setUp) link(to, name string) error {
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		return err
	}
	err := os.Symlink(to, s.path(name))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.EROFS) {
		return nil
	}
	return err
}

func (s *setUp) exists(name string) bool {
	_, err := os.Stat(s.path(name))
	return err == nil
}

// linker writes the linker's configuration, which lies in the /etc that a build
// root does not show, and its cache.
func (s *setUp) linker() error {
	var dirs []string
	for _, pattern := range []string{
		"usr/local/lib", "usr/local/lib/*-linux-*", "usr/lib/*-linux-*", // Debian's, libc-bin
		"usr/local/lib64", "usr/lib64/iscsi", // RHEL 7's
	} {
		found, err := filepath.Glob(s.path(pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if st, err := os.Stat(path); err == nil && st.IsDir() {
				dirs = append(dirs, "/"+strings.TrimPrefix(strings.TrimPrefix(path, s.root), "/"))
			}
		}
	}
	conf := ""
	if len(dirs) > 0 {
		conf = strings.Join(dirs, "\n") + "\n"
	}
	if err := s.write("etc/ld.so.conf", conf, 0o644); err != nil {
		return err
	}
	// -X: links are in /usr, which is the build root's own.
	if err := s.must("ldconfig", "-X"); err != nil {
		return err
	}
	// It remembers inode numbers, which differ between builds.
	return os.RemoveAll(s.path("var/cache/ldconfig"))
}

// must runs a program if the build root has it, and fails if it does.
func (s *setUp) must(tool string, args ...string) error {
	out, err := s.run(tool, args...)
	var missing *module.MissingTool
	if err == nil || errors.As(err, &missing) {
		return nil
	}
	return fmt.Errorf("%s: %w: %s", tool, err, bytes.TrimSpace(out))
}

// try runs a program if the build root has it, and tells if it failed. Only if it was killed,
// as it may be when there is no memory left, that is an error: there is no telling then how
// far it came, and what it made is kept.
func (s *setUp) try(tool string, args ...string) error {
	err := s.must(tool, args...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && !exit.Exited() {
		return err
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return nil
}

func (s *setUp) osRelease() error {
	if !s.exists("usr/lib/os-release") {
		return nil
	}
	return s.link("../usr/lib/os-release", "etc/os-release")
}

// users makes passwd and group: Debian's static ones from base-passwd, then
// those of systemd's files, then the two that everything relies on.
func (s *setUp) users() error {
	for _, name := range []string{"passwd", "group"} {
		master, err := os.ReadFile(s.path("usr/share/base-passwd/" + name + ".master"))
		if err == nil && !s.exists("etc/"+name) {
			err = s.write("etc/"+name, string(master), 0o644)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if s.family.systemd {
		if err := s.must("systemd-sysusers"); err != nil {
			return err
		}
	}
	nogroup := s.family.nogroup
	return errors.Join(
		s.ensure("etc/passwd", "root:x:0:0:root:/root:/bin/sh", "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin"),
		s.ensure("etc/group", "root:x:0:", nogroup+":x:65534:"),
	)
}

// ensure appends the lines whose name the file does not have.
func (s *setUp) ensure(name string, lines ...string) error {
	data, err := os.ReadFile(s.path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := string(data)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	for _, line := range lines {
		key, _, _ := strings.Cut(line, ":")
		if !strings.Contains("\n"+text, "\n"+key+":") {
			text += line + "\n"
		}
	}
	return s.write(name, text, 0o644)
}

// machineID writes an id that is the same in every build root.
func (s *setUp) machineID() error {
	if !s.family.machineID || s.exists("etc/machine-id") {
		return nil
	}
	return s.write("etc/machine-id", strings.Repeat("f", 32)+"\n", 0o444)
}

// tmpfiles may fail: some of the folders belong to users that nobody made.
func (s *setUp) tmpfiles() error {
	if s.family.systemd {
		return s.try("systemd-tmpfiles", "--create")
	}
	return nil
}

// nsswitch keeps services of a booted system out, such as nss-resolve.
func (s *setUp) nsswitch() error {
	return s.write("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n", 0o644)
}

// cryptoPolicies gives rpm's OpenPGP library the distribution's defaults.
func (s *setUp) cryptoPolicies() error {
	from := "usr/share/crypto-policies/back-ends/DEFAULT"
	entries, err := os.ReadDir(s.path(from))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		data, err := os.ReadFile(s.path(filepath.Join(from, e.Name()))) // they are links
		if err == nil {
			err = s.write("etc/crypto-policies/back-ends/"+e.Name(), string(data), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// python makes RHEL 8's /usr/bin/python3 lead somewhere.
func (s *setUp) python() error {
	to, err := os.Readlink(s.path("usr/bin/python3"))
	if err != nil || to != "/etc/alternatives/python3" || !s.exists("usr/bin/python3.6") {
		return nil
	}
	return s.link("/usr/bin/python3.6", "etc/alternatives/python3")
}

// debianCerts makes the bundle that update-ca-certificates(8) would make.
func (s *setUp) debianCerts() error {
	var bundle bytes.Buffer
	for _, dir := range []string{"usr/share/ca-certificates", "usr/local/share/ca-certificates"} {
		var paths []string
		err := filepath.WalkDir(s.path(dir), func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() && strings.HasSuffix(path, ".crt") {
				paths = append(paths, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		sort.Strings(paths)
		for _, path := range paths {
			pem, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			bundle.Write(append(bytes.TrimRight(pem, "\n"), '\n'))
		}
	}
	if bundle.Len() == 0 {
		return nil
	}
	if err := s.write("etc/ssl/certs/ca-certificates.crt", bundle.String(), 0o644); err != nil {
		return err
	}
	// Where OpenSSL looks when there are no links named by hashes.
	return s.link("certs/ca-certificates.crt", "etc/ssl/cert.pem")
}

// redHatCerts makes the bundle that update-ca-trust(8) would make.
func (s *setUp) redHatCerts() error {
	if !s.exists("usr/share/pki/ca-trust-source") || s.exists("etc/ssl/certs") {
		return nil
	}
	bundle := "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"
	if err := os.MkdirAll(s.path(filepath.Dir(bundle)), 0o755); err != nil {
		return err
	}
	return errors.Join(
		s.try("trust", "extract", "--format=pem-bundle", "--filter=ca-anchors", "--purpose=server-auth", "--overwrite", bundle),
		s.link(bundle, "etc/pki/tls/certs/ca-bundle.crt"),
		s.link(bundle, "etc/pki/tls/cert.pem"),
		s.link("../pki/tls/certs", "etc/ssl/certs"),
	)
}
