package compose

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each case fails with one line that has all the texts in it.
func TestFedoraFailures(t *testing.T) {
	const name = "name = \"x\"\n"
	pkg := func(p string) string { return name + "[[packages]]\nname = \"" + p + "\"\n" }
	own := name + "[[customizations.repositories]]\nid = \"own\"\ninstall_from = true\nbaseurls = [\"http://mirror.invalid/fedora/own\"]\n"
	extra := []rpmEntry{
		{"exim", "1-1", "noarch", "Conflicts: postfix"},
		{"postfix", "1-1", "noarch", ""},
		{"broken", "1-1", "noarch", "Requires: nowhere >= 99\nRequires: neither"},
		{"foreign", "1-1", "aarch64", ""},
		{"nginx", "1.22-1", "x86_64", ""},
		{"nginx", "2:1.20-1", "x86_64", ""},
		{"nginx-mod", "1.22-1", "x86_64", ""},
	}
	const place = "fedora at http://mirror.invalid/fedora/releases/42/Everything/x86_64/os"
	for _, c := range []struct {
		name, blueprint string
		spoil           func(*fedoraMirror, *Options)
		want            []string
	}{
		{"package that does not exist", pkg("ngimx"), nil,
			[]string{`packages[0]: the package "ngimx" does not exist in ` + place + " (did you mean nginx?)"}},
		{"package in modules", name + "[[modules]]\nname = \"bahs\"\n", nil, []string{`modules[0]: the package "bahs"`, "did you mean bash"}},
		{"version that does not exist", pkg("nginx") + "version = \"1.24\"\n", nil,
			[]string{`packages[0]: the package "nginx" has no version "1.24" in fedora at`, "there is 1.22-1, 2:1.20-1"}},
		{"group that does not exist", name + "[[groups]]\nname = \"cor\"\n", nil,
			[]string{`groups[0]: the group "cor" does not exist in fedora at`, "did you mean core?"}},
		{"excluded package", pkg("nginx-mod"), func(_ *fedoraMirror, o *Options) { o.Exclude = []string{"nginx-*"} },
			[]string{`packages[0]: the package "nginx-mod" is excluded by "nginx-*"`}},
		{"excluded dependency", name, func(_ *fedoraMirror, o *Options) { o.Exclude = []string{"glibc"} },
			[]string{"cannot be installed together: ", "bash", "glibc"}},
		{"unmet dependencies", pkg("broken"), nil,
			[]string{"cannot be installed together: ", "nothing provides nowhere >= 99 needed by broken-1-1.noarch"}},
		{"conflict", pkg("exim") + "[[packages]]\nname = \"postfix\"\n", nil,
			[]string{"cannot be installed together: ", "package exim-1-1.noarch ", "conflicts with postfix provided by postfix-1-1.noarch"}},
		{"other architecture", pkg("foreign"), nil, []string{"foreign"}},
		{"kernel without an image", name + "[customizations.kernel]\nname = \"nginx\"\n", nil,
			[]string{`customizations.kernel.name: the package "nginx" brings no kernel`, "such as kernel"}},
		{"kernel that does not exist", name + "[customizations.kernel]\nname = \"kernell\"\n", nil,
			[]string{"customizations.kernel.name: ", "did you mean kernel?"}},

		{"mirror down", name, func(m *fedoraMirror, _ *Options) { m.down() },
			[]string{"cannot read the repository " + place, "connect", "--mirror"}},
		{"wrong path", name, func(_ *fedoraMirror, o *Options) { o.Mirror += "/wrong" },
			[]string{"fedora at http://mirror.invalid/fedora/wrong/releases/42", "there is no repodata/repomd.xml", "updates/42/Everything/x86_64"}},
		{"files that are not there", name, func(_ *fedoraMirror, o *Options) { o.Mirror = "file:///nowhere" },
			[]string{"fedora at file:///nowhere/releases/42", "there is no repodata/repomd.xml"}},
		{"metadata that does not match", name, func(m *fedoraMirror, _ *Options) {
			m.write(m.path(fedoraReleases, "repodata/primary.xml"), strings.Repeat("<evil/>", 1000))
		}, []string{place, "does not match its checksums"}},
		{"no checksum that pins", name, func(m *fedoraMirror, _ *Options) {
			m.respell(`<checksum type="sha256" pkgid="YES">[0-9a-f]{24}`, `<checksum type="sha" pkgid="YES">`)
		}, []string{"gives no sha256 for"}},
		{"metadata that is none", name, func(m *fedoraMirror, _ *Options) { m.respell(`<checksum type="sha256"`, `<checksum type="sha512"`) },
			[]string{"cannot read the repositor", "the metadata is broken"}},
		{"empty repository", name, func(m *fedoraMirror, _ *Options) { m.publish(fedoraReleases, nil) },
			[]string{`the package "dracut-config-generic" does not exist in fedora at`}},
		{"repository of the blueprint that is not there", own + "gpgcheck = false\n", nil,
			[]string{"own at http://mirror.invalid/fedora/own", "there is no repodata/repomd.xml"}},
		{"repository of the blueprint without keys", own, nil,
			[]string{"customizations.repositories[0]: signatures of this repository cannot be checked: give gpgkeys"}},
		{"repository of the blueprint with a key elsewhere", own + "gpgkeys = [\"https://own.invalid/KEY\"]\n", nil,
			[]string{"customizations.repositories[0].gpgkeys[0]: ", "put the key itself"}},
		{"repository of the blueprint with a name of the distribution", strings.Replace(own, `"own"`, `"updates"`, 1), nil,
			[]string{`customizations.repositories[0].id: "updates" is the id of a repository of fedora-42`}},

		{"no keyring", name, func(_ *fedoraMirror, o *Options) { o.Keyring = "/nonexistent" }, []string{"keys", "/nonexistent: no such file"}},
		{"keyring in another form", name, func(m *fedoraMirror, o *Options) { m.write(m.keyring, "\x99binary") },
			[]string{"is not a key that rpm can import", "gpg --armor --export"}},
		{"no keyring package", name, func(m *fedoraMirror, o *Options) {
			o.SolverRoot = m.t.TempDir()
			m.write(filepath.Join(o.SolverRoot, "usr/bin/python3"), "")
			o.Keyring = ""
		}, []string{"RPM-GPG-KEY-fedora-42-primary: no such file", "install the package distribution-gpg-keys", "--keyring"}},
		{"solver root without python", name, func(m *fedoraMirror, o *Options) { o.SolverRoot = m.t.TempDir() },
			[]string{"has no dnf for Python: give the tree of a system with python3-dnf"}},
		{"no repositories", name, func(_ *fedoraMirror, o *Options) { o.Mirror = "" },
			[]string{"dnf is not configured with repositories of fedora-42 on this machine", "--mirror URL"}},
		{"repositories and mirror", name, func(_ *fedoraMirror, o *Options) { o.Repositories = []string{o.Mirror} }, []string{"leave out --repository, or --mirror"}},
		{"mirror and snapshot", name, func(_ *fedoraMirror, o *Options) { o.Snapshot = o.Mirror }, []string{"--mirror or --snapshot"}},
		{"security mirror", name, func(_ *fedoraMirror, o *Options) { o.SecurityMirror = o.Mirror }, []string{"leave out --security-mirror"}},
		{"mirror without scheme", name, func(_ *fedoraMirror, o *Options) { o.Mirror = "mirror.invalid/fedora" }, []string{"want http, https or file"}},
		{"mirror with password", name, func(_ *fedoraMirror, o *Options) { o.Mirror = "https://me:secret@mirror.invalid" }, []string{"me:xxxxx@", "user name"}},

		{"group of Debian", name + "[[groups]]\nname = \"core\"\n", func(_ *fedoraMirror, o *Options) { o.Distro = "debian-12" }, []string{"groups: Debian has no package groups"}},
		{"repository of Debian", own, func(_ *fedoraMirror, o *Options) { o.Distro = "debian-12" }, []string{"customizations.repositories: ", "Debian cannot use"}},
		{"repositories option of Debian", name, func(_ *fedoraMirror, o *Options) {
			o.Distro, o.Repositories = "debian-12", []string{"http://x.invalid"}
		}, []string{"--mirror in place of --repository"}},
		{"exclude option of Debian", name, func(_ *fedoraMirror, o *Options) { o.Distro, o.Exclude = "debian-12", []string{"x"} }, []string{"leave out --exclude"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newFedoraMirror(t, append(standardRPMs(), extra...))
			opts := m.options()
			if c.spoil != nil {
				c.spoil(m, &opts)
			}
			_, err := Manifest(context.Background(), blueprint(t, c.blueprint), opts)
			if err == nil {
				t.Fatal("it is accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
				t.Errorf("not fit to print: %v", err)
			}
		})
	}
}

// down gives the port to nobody.
func (m *fedoraMirror) down() {
	m.server.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	m.t.Setenv("http_proxy", gone.URL)
}

// respell changes the list of the packages, with its checksum.
func (m *fedoraMirror) respell(expression, replacement string) {
	m.t.Helper()
	path := m.path(fedoraReleases, "repodata/primary.xml")
	before, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	m.rewrite("primary.xml", string(before), regexp.MustCompile(expression).ReplaceAllString(string(before), replacement))
}

// A failed update must not let the metadata of an earlier one be used.
func TestFedoraFailureAfterSuccess(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	opts := m.options()
	bp := blueprint(t, simpleFedora)
	mustCompose(t, bp, opts)
	m.down()
	if _, err := Manifest(context.Background(), bp, opts); err == nil || !strings.Contains(err.Error(), "cannot read the repository") {
		t.Errorf("got %v", err)
	}
}
