package compose

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const simpleFedora = "name = \"test\"\n[customizations]\nhostname = \"one\"\n"

func TestFedoraManifest(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	m.publish(fedoraUpdates, []rpmEntry{
		{"kernel", "6.15.2-200.fc42", "x86_64", "Requires: kernel-core = 6.15.2-200.fc42"},
		{"kernel-core", "6.15.2-200.fc42", "x86_64", "Provides: installonlypkg(kernel)"},
	})
	bp, err := ReadBlueprint("testdata/fedora.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		golden string
		change func(*Options)
	}{
		{"fedora.qcow2.json", func(*Options) {}},
		{"fedora.raw.json", func(o *Options) { o.Type = "raw"; o.BuildRoot = "tree"; o.WeakDependencies = true }},
		{"fedora.tar.json", func(o *Options) { o.Type = "tar"; o.Exclude = []string{"selinux-*"} }},
	} {
		opts := m.options()
		c.change(&opts)
		first := mustCompose(t, bp, opts)
		again := mustCompose(t, bp, opts)
		other := opts
		other.StateDir = filepath.Join(t.TempDir(), "other")
		if !bytes.Equal(first, again) || !bytes.Equal(first, mustCompose(t, bp, other)) {
			t.Errorf("%s: the same repository gives different manifests", c.golden)
		}
		for ref, item := range decode(t, first).Sources["org.osbuild.curl"].Items {
			if item.Size < 1000 || !strings.HasPrefix(item.URL, "http://mirror.invalid/") {
				t.Errorf("package %s is not pinned: %+v", ref, item)
			}
		}
		checkGolden(t, c.golden, first)
	}
}

func TestFedoraMaxAge(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	opts := m.options()
	opts.MaxAge = 24 * time.Hour
	bp := blueprint(t, simpleFedora)
	first := mustCompose(t, bp, opts)
	before := m.requests.Load()
	if !bytes.Equal(first, mustCompose(t, bp, opts)) {
		t.Error("the second manifest differs")
	}
	if n := m.requests.Load() - before; n != 0 {
		t.Errorf("the mirror was asked %d times although the metadata is fresh", n)
	}
	opts.MaxAge = 0
	mustCompose(t, bp, opts)
	if m.requests.Load() == before {
		t.Error("the mirror was not asked although MaxAge is zero")
	}
}

// A repository that changes gives another solution.
func TestFedoraChanges(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	opts := m.options()
	bp := blueprint(t, simpleFedora)
	first := mustCompose(t, bp, opts)
	m.publish(fedoraReleases, append(standardRPMs(), rpmEntry{"glibc", "2.42-1.fc42", "x86_64", ""}))
	second := mustCompose(t, bp, opts)
	if bytes.Equal(first, second) || !bytes.Contains(second, []byte("glibc-2.42-1.fc42.x86_64.rpm")) {
		t.Error("the new version is not in the manifest")
	}
}

func TestRepositoriesOfFiles(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	m.publish("own", []rpmEntry{{"glibc", "9-1", "x86_64", ""}})
	opts := m.options()
	opts.Mirror = ""
	opts.Repositories = []string{"file://" + m.path(fedoraReleases), m.url + "/own/"}
	text := string(mustCompose(t, blueprint(t, simpleFedora), opts))
	for _, want := range []string{
		`"url": "file://` + m.path(fedoraReleases) + `/Packages/bash-5.2.37-1.fc42.x86_64.rpm"`,
		`"url": "http://mirror.invalid/fedora/own/Packages/glibc-9-1.x86_64.rpm"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in the manifest", want)
		}
	}
}

// The metadata of a repository of the blueprint is signed.
func TestSignedMetadata(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	m.publish("own", []rpmEntry{{"own-tool", "1-1", "noarch", ""}})
	m.gnupg, _ = newKey(t)
	m.sign("own")
	key := string(tool(t, m.gnupg, nil, "gpg", "--armor", "--export"))
	text := "name = \"x\"\npackages = [{ name = \"own-tool\" }]\n[[customizations.repositories]]\nid = \"own\"\ninstall_from = true\n" +
		"repo_gpgcheck = true\nbaseurls = [\"http://mirror.invalid/fedora/own\"]\ngpgkeys = ['''" + key + "''']\n"
	data := mustCompose(t, blueprint(t, text), m.options())
	if !bytes.Contains(data, []byte("/own/Packages/own-tool-1-1.noarch.rpm")) {
		t.Error("the package is not in the manifest")
	}
	m.gnupg, _ = newKey(t)
	m.sign("own")
	_, err := Manifest(context.Background(), blueprint(t, text), m.options())
	if err == nil || !strings.Contains(err.Error(), "own at http://mirror.invalid/fedora/own: the signature of its metadata is not valid") {
		t.Errorf("got %v", err)
	}
}

// A list of mirrors, of which the first is taken that answers.
func TestMirrorlist(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	m.publish("own", []rpmEntry{{"own-tool", "1-1", "noarch", ""}})
	m.write(m.path("mirrors"), "http://mirror.invalid/fedora/gone/\nhttp://mirror.invalid/fedora/own/\n")
	index, err := os.ReadFile(m.path("own/repodata/repomd.xml"))
	if err != nil {
		t.Fatal(err)
	}
	m.write(m.path("metalink"), fmt.Sprintf(`<?xml version="1.0"?>
<metalink version="3.0" xmlns="http://www.metalinker.org/" type="dynamic"><files><file name="repomd.xml">
<size>%d</size><verification><hash type="sha256">%x</hash></verification>
<resources maxconnections="1"><url protocol="http" type="http" location="US" preference="100">http://mirror.invalid/fedora/own/repodata/repomd.xml</url></resources>
</file></files></metalink>
`, len(index), sha256.Sum256(index)))
	for key, want := range map[string]string{"mirrorlist": "mirrors", "metalink": "metalink"} {
		text := "name = \"x\"\npackages = [{ name = \"own-tool\" }]\n[[customizations.repositories]]\nid = \"own\"\n" +
			"install_from = true\ngpgcheck = false\n" + key + " = \"http://mirror.invalid/fedora/" + want + "\"\n"
		data := mustCompose(t, blueprint(t, text), m.options())
		if !bytes.Contains(data, []byte(`"http://mirror.invalid/fedora/own/Packages/own-tool-1-1.noarch.rpm"`)) {
			t.Errorf("%s: the package is not in the manifest", key)
		}
		if bytes.Count(data, []byte(`"rpm.check_gpg": true`)) != len(decode(t, data).Sources["org.osbuild.curl"].Items)-1 {
			t.Errorf("%s: not all packages but one are signed", key)
		}
	}
}

// The metadata of a repository with every option is kept from one call to the next.
func TestRepositoryIsKept(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	m.publish("own", []rpmEntry{{"glibc", "9-1", "x86_64", ""}, {"bash", "9-1", "x86_64", "Requires: glibc"}})
	text := "name = \"x\"\n[[customizations.repositories]]\nid = \"own\"\npriority = 200\ninstall_from = true\ngpgcheck = false\n" +
		"module_hotfixes = true\nsslverify = false\nbaseurls = [\"http://mirror.invalid/fedora/own\"]\n"
	opts := m.options()
	opts.MaxAge = 24 * time.Hour
	for range 2 {
		data := mustCompose(t, blueprint(t, text), opts)
		if bytes.Contains(data, []byte("/own/Packages")) {
			t.Error("a package comes from the repository with the lower priority")
		}
	}
	states, err := os.ReadDir(opts.StateDir)
	if err != nil || len(states) != 1 {
		t.Errorf("%d state directories, %v", len(states), err)
	}
	higher := strings.Replace(text, "200", "1", 1)
	data := mustCompose(t, blueprint(t, higher), opts)
	if !bytes.Contains(data, []byte("/own/Packages/bash-9-1.x86_64.rpm")) || !bytes.Contains(data, []byte(`"insecure": true`)) {
		t.Error("the options of the repository are not obeyed")
	}
}

// Repositories of a system's own configuration, with a client certificate.
func TestRepositoriesOfSolverRoot(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	root := t.TempDir()
	m.write(filepath.Join(root, "usr/bin/python3"), "")
	m.write(filepath.Join(root, "usr/lib/os-release"), "ID=\"rhel\"\nVERSION_ID=\"9.6\"\n")
	m.write(filepath.Join(root, "etc/dnf/vars/place"), "releases/42\n")
	m.write(filepath.Join(root, "etc/pki/rpm-gpg/KEY"), armorBegin+"\nof the system\n")
	m.write(filepath.Join(root, "etc/yum.repos.d/redhat.repo"), `[base]
name=Base
baseurl=http://mirror.invalid/fedora/$place/Everything/$basearch/os
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/KEY
sslverify=0
sslclientcert=/etc/pki/entitlement/1.pem
[off]
name=Off
enabled=0
baseurl=http://mirror.invalid/nothing
`)
	opts := m.options()
	opts.Distro, opts.Mirror, opts.Keyring, opts.SolverRoot = "rhel-9", "", "", root
	text := string(mustCompose(t, blueprint(t, simpleFedora), opts))
	for _, want := range []string{`"name": "org.osbuild.rhsm"`, `"insecure": true`, `of the system`, `"dbpath": "/var/lib/rpm"`, "mirror.invalid/fedora/releases/42/Everything/x86_64/os/Packages/bash"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in the manifest", want)
		}
	}
	opts.Keyring = m.keyring
	if text := string(mustCompose(t, blueprint(t, simpleFedora), opts)); !strings.Contains(text, "this key checks nothing") || strings.Contains(text, "of the system") {
		t.Error("the keyring that is given does not stand in place of the system's")
	}
	opts.Distro = "rhel-10"
	if _, err := Manifest(context.Background(), blueprint(t, simpleFedora), opts); err == nil || !strings.Contains(err.Error(), "dnf is not configured with repositories of rhel-10") {
		t.Errorf("got %v", err)
	}
}

func TestFedoraCancel(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	ctx, cancel := context.WithCancel(context.Background())
	opts := m.options()
	opts.Exec = func(ctx context.Context, c Command) error {
		cancel()
		return plainExec(ctx, c)
	}
	if _, err := Manifest(ctx, blueprint(t, simpleFedora), opts); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFedoraProgress(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	opts := m.options()
	var said bytes.Buffer
	opts.Progress = &said
	mustCompose(t, blueprint(t, simpleFedora), opts)
	if said.String() != "metadata of fedora at http://mirror.invalid/fedora/releases/42/Everything/x86_64/os is up to date\n" {
		t.Errorf("progress is %q", said.String())
	}
}

// Only the refresh has a network, and everything the program is to see is there.
func TestDnfIsConfined(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	opts := m.options()
	var networks []bool
	opts.Exec = func(ctx context.Context, c Command) error {
		networks = append(networks, c.Network)
		for _, b := range c.Binds {
			if _, err := os.Lstat(b.Source); err != nil {
				t.Error(err)
			}
			if b.Writable != strings.HasPrefix(b.Source, opts.StateDir) {
				t.Errorf("%+v", b)
			}
		}
		return plainExec(ctx, c)
	}
	mustCompose(t, blueprint(t, simpleFedora), opts)
	if len(networks) != 2 || !networks[0] || networks[1] {
		t.Errorf("commands with a network: %v", networks)
	}
}

func TestRPMKernel(t *testing.T) {
	for _, c := range []struct{ name, version, want string }{
		{"kernel-core", "6.15.2-200.fc42.x86_64", "6.15.2-200.fc42.x86_64"},
		{"kernel-core", "1:6.15.2-200.fc42.x86_64", "6.15.2-200.fc42.x86_64"},
		{"kernel-debug-core", "6.15.2-200.fc42.x86_64", "6.15.2-200.fc42.x86_64+debug"},
		{"kernel", "6.15.2-200.fc42.x86_64", ""},
		{"kernel-modules-core", "6.15.2-200.fc42.x86_64", ""},
	} {
		if got := rpmKernel(pinned{name: c.name, version: c.version}); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
