package compose

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each case fails with one line that has all the texts in it.
func TestFailures(t *testing.T) {
	const name = "name = \"x\"\n"
	pkg := func(p string) string { return name + "[[packages]]\nname = \"" + p + "\"\n" }
	extra := []entry{
		{"exim", "1", "Provides: mail-agent\nConflicts: mail-agent"},
		{"postfix", "1", "Provides: mail-agent\nConflicts: mail-agent"},
		{"broken", "1", "Depends: libc6 (>= 99), nowhere"},
		{"nginx", "1.22", ""},
		{"nginx-light", "1.22", ""},
	}
	for _, c := range []struct {
		name, blueprint string
		spoil           func(*repository, *Options)
		want            []string
	}{
		{"package that does not exist", pkg("ngimx"), nil,
			[]string{`packages[0]: the package "ngimx" does not exist in bookworm at http://mirror.invalid/debian (did you mean nginx?)`}},
		{"regular expression", pkg("ngin."), nil, []string{`the package "ngin." does not exist`}},
		{"removal", pkg("nginx-"), nil, []string{`the package "nginx-" does not exist`}},
		{"virtual package", pkg("mail-agent"), nil, []string{`"mail-agent" is virtual`, "(exim, postfix)"}},
		{"version that does not exist", pkg("nginx") + "version = \"1.24\"\n", nil,
			[]string{`packages[0]: the package "nginx" has no version "1.24" in bookworm`, "there is 1.22"}},
		{"unmet dependencies", pkg("broken"), nil,
			[]string{"cannot be installed together: broken: Depends: libc6 (>= 99)", "broken: Depends: nowhere"}},
		{"conflict", pkg("exim") + "[[packages]]\nname = \"postfix\"\n", nil,
			[]string{"cannot be installed together", "exim: Conflicts: mail-agent"}},
		{"kernel without an image", name + "[customizations.kernel]\nname = \"nginx\"\n", nil,
			[]string{`customizations.kernel.name: the package "nginx" brings no kernel`, "linux-image-amd64"}},
		{"kernel that does not exist", name + "[customizations.kernel]\nname = \"linux-image-amd63\"\n", nil,
			[]string{"customizations.kernel.name: ", "did you mean linux-image-amd64?"}},

		{"mirror down", name, func(r *repository, _ *Options) { r.down() },
			[]string{"http://mirror.invalid/debian bookworm InRelease", "Connection refused", "--mirror"}},
		{"wrong path", name, func(_ *repository, o *Options) { o.Mirror += "/wrong" },
			[]string{"http://mirror.invalid/debian/wrong bookworm Release", "it has no release bookworm", "/debian"}},
		{"security suite that is not there", name, func(_ *repository, o *Options) { o.SecurityMirror = o.Mirror },
			[]string{"it has no release bookworm-security"}},
		{"changed after it was signed", name, func(r *repository, _ *Options) {
			path := r.path("dists/bookworm/InRelease")
			data, err := os.ReadFile(path)
			if err != nil {
				r.t.Fatal(err)
			}
			r.write(path, strings.Replace(string(data), "Origin: Test", "Origin: Evil", 1))
		}, []string{"bookworm InRelease", "its signature is not valid", "--mirror"}},
		{"signed by somebody else", name, func(r *repository, _ *Options) {
			r.gnupg, _ = newKey(r.t)
			r.sign("bookworm")
		}, []string{"it is signed with the key ", "which is not in", "keys.gpg", "--keyring"}},
		{"not signed", name, func(r *repository, _ *Options) {
			if err := os.Remove(r.path("dists/bookworm/InRelease")); err != nil {
				r.t.Fatal(err)
			}
		}, []string{"it is not signed", "--keyring"}},
		{"index that does not match", name, func(r *repository, _ *Options) {
			r.write(r.path("dists/bookworm/main/binary-amd64/Packages"), "Package: evil\n")
		}, []string{"does not match its signed checksums"}},
		{"no checksums", name, func(r *repository, _ *Options) {
			entries := standard()
			entries[0].fields += "\nSHA256: "
			r.publish("bookworm", entries)
		}, []string{"the repository gives no sha256 for base-files_12_amd64.deb"}},
		{"empty repository", name, func(r *repository, _ *Options) {
			r.publish("bookworm", []entry{{"nginx", "1", ""}})
		}, []string{`the package "usr-is-merged" does not exist`}},

		{"no keyring", name, func(_ *repository, o *Options) { o.Keyring = "/nonexistent.gpg" },
			[]string{"keyring", "/nonexistent.gpg: no such file"}},
		{"no keyring package", name, func(r *repository, o *Options) {
			o.SolverRoot = r.t.TempDir()
			for _, p := range []string{"apt-get", "apt-cache", "apt-config", "sqv"} {
				r.write(filepath.Join(o.SolverRoot, "usr/bin", p), "")
			}
			o.Keyring = ""
		}, []string{"debian-archive-keyring.gpg: no such file", "install the package debian-archive-keyring", "--keyring"}},
		{"solver root without apt", name, func(r *repository, o *Options) { o.SolverRoot = r.t.TempDir() },
			[]string{"has no apt-get: give the tree of a Debian system"}},
		{"unknown distro", name, func(_ *repository, o *Options) { o.Distro = "debian-21" },
			[]string{`unknown distro "debian-21"`, "known are debian-12"}},
		{"distro of the blueprint", name + "distro = \"fedora-21\"\n", nil,
			[]string{`unknown distro "fedora-21"`, "did you mean fedora-42", "known are debian-12, fedora-42"}},
		{"two distros", name + "distro = \"fedora-42\"\n", func(_ *repository, o *Options) { o.Distro = "debian-12" },
			[]string{`"fedora-42"`, `"debian-12"`}},
		{"architecture", name + "architecture = \"aarch64\"\n", nil, []string{`"aarch64"`, "want x86_64"}},
		{"architecture option", name, func(_ *repository, o *Options) { o.Architecture = "arm64" }, []string{`"arm64"`, "want amd64"}},
		{"unknown type", name, func(_ *repository, o *Options) { o.Type = "iso" }, []string{`unknown image type "iso"`, "qcow2, raw, tar"}},
		{"unknown compression", name, func(_ *repository, o *Options) { o.Compression = "lz4" }, []string{`unknown compression "lz4"`, "zstd, zlib, none"}},
		{"unknown build root", name, func(_ *repository, o *Options) { o.BuildRoot = "vm" }, []string{`unknown build root "vm"`, "host, tree"}},
		{"mirror and snapshot", name, func(_ *repository, o *Options) { o.Snapshot = o.Mirror }, []string{"--mirror or --snapshot"}},
		{"security mirror alone", name, func(_ *repository, o *Options) { o.SecurityMirror, o.Mirror = o.Mirror, "" }, []string{"give --mirror as well"}},
		{"mirror without scheme", name, func(_ *repository, o *Options) { o.Mirror = "mirror.invalid/debian" }, []string{"want http, https or file"}},
		{"mirror with password", name, func(_ *repository, o *Options) { o.Mirror = "https://me:secret@mirror.invalid" }, []string{"me:xxxxx@", "user name"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRepository(t, append(standard(), extra...))
			opts := r.options()
			if c.spoil != nil {
				c.spoil(r, &opts)
			}
			bp, err := ParseBlueprint("blueprint.toml", []byte(c.blueprint))
			if err != nil {
				t.Fatal(err)
			}
			_, err = Manifest(context.Background(), bp, opts)
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
func (r *repository) down() {
	r.server.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	r.t.Setenv("http_proxy", gone.URL)
}

// A failed update must not let the lists of an earlier one be used.
func TestFailureAfterSuccess(t *testing.T) {
	r := newRepository(t, standard())
	opts := r.options()
	bp := blueprint(t, simple)
	mustCompose(t, bp, opts)
	r.gnupg, _ = newKey(t)
	r.sign("bookworm")
	if _, err := Manifest(context.Background(), bp, opts); err == nil || !strings.Contains(err.Error(), "signed with the key") {
		t.Errorf("got %v", err)
	}
}

func TestNoApt(t *testing.T) {
	if got := missingProgram(t.TempDir()); got != "apt-get" {
		t.Errorf("got %q", got)
	}
	text := noApt("apt-get", distros[0]).Error()
	for _, want := range []string{"apt, gpgv and debian-archive-keyring", "--solver-root"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in: %s", want, text)
		}
	}
}
