package test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ossify/ossify/test/rpmrepo/rpms"
)

// rpmMirror serves the RPM repository for tests: the one that the variable
// OSSIFY_RPMREPO names, or the one that is kept in the folder build.
func rpmMirror(t *testing.T) (dir, url string) {
	t.Helper()
	dir = os.Getenv("OSSIFY_RPMREPO")
	if dir == "" {
		var err error
		if dir, err = rpms.Cached(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	return dir, rpms.Serve(t, dir).URL
}

// TestRPM installs packages of RPM without root, as compose pins them, and looks at
// the tree; a package with another signature and one with other bytes are refused.
func TestRPM(t *testing.T) {
	d := newDebian(t)
	repo, mirror := rpmMirror(t)
	key := filepath.Join(repo, "RPM-GPG-KEY-test")
	blueprint := filepath.Join(d.dir, "fedora.toml")
	text := "name = \"rpms\"\ndistro = \"fedora-42\"\npackages = [{ name = \"test-scripts\" }, { name = \"test-files\" }]\n"
	if err := os.WriteFile(blueprint, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	compose := []string{"compose", blueprint, "--type", "tar", "--mirror", mirror, "--keyring", key}
	manifest := d.run(t, d.store, append(compose, "--manifest-only")...)
	log := d.run(t, d.store, append(compose, "-o", filepath.Join(d.dir, "out"))...)
	t.Log(log)

	tree := filepath.Join(d.dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	inside := func(command string) string {
		t.Helper()
		return d.run(t, d.store, "unshare", "sh", "-euc", command, "sh", tree)
	}
	archives, err := filepath.Glob(filepath.Join(d.dir, "out", "*.tar*"))
	if err != nil || len(archives) != 1 {
		t.Fatalf("archives: %v, %v", archives, err)
	}
	inside(`tar --xattrs --xattrs-include='*' -xf ` + archives[0] + ` -C "$1"`)
	t.Cleanup(func() { inside(`find "$1" -xdev -mindepth 1 -delete`) })
	installed := strings.Fields(inside(`rpm --root "$1" --dbpath /usr/lib/sysimage/rpm -qa --qf '%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}\n' | grep -v gpg-pubkey`))
	slices.Sort(installed)
	if want := manifestPackages(t, manifest); !slices.Equal(installed, want) {
		t.Errorf("rpm -qa: %v\nmanifest: %v", installed, want)
	}
	for command, want := range map[string]string{
		`cat "$1"/var/lib/test-scripts/log`:                               "pre 1\npost 1\nposttrans 1\n",
		`stat -c '%a' "$1"/usr/bin/test-setuid "$1"/var/spool/test-files`: "4755\n1777\n",
		`getcap -n "$1"/usr/bin/test-ping | sed 's/.* //'`:                "cap_net_raw=ep\n",
		`cat "$1"/etc/machine-id`:                                         "",
	} {
		if got := inside(command); got != want && !(strings.Contains(command, "machine-id") && got == "uninitialized\n") {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	t.Run("another key", func(t *testing.T) {
		other := append(slices.Clone(compose[:len(compose)-1]), filepath.Join(repo, "RPM-GPG-KEY-other"), "-o", filepath.Join(d.dir, "other"))
		d.fails(t, "not signed by one of the keys", other...)
	})
	t.Run("other bytes", func(t *testing.T) {
		// One of the packages has other bytes than the manifest says.
		bad := strings.ReplaceAll(manifest, firstChecksum(t, manifest), "sha256:"+strings.Repeat("0", 64))
		path := filepath.Join(d.dir, "bad.json")
		if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		d.fails(t, "checksum", "--store", filepath.Join(d.dir, "store-bad"), path)
	})
}

// fails runs ossify, which has to fail with that text.
func (d *debian) fails(t *testing.T, want string, args ...string) {
	t.Helper()
	cmd := exec.Command(d.ossify, args...)
	cmd.Env = append(os.Environ(), "OSSIFY_STORE="+d.store)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), want) {
		t.Errorf("ossify %s: %v, want %q:\n%s", strings.Join(args, " "), err, want, out)
	}
}

// curlItems are the items of the manifest's source of files, by checksum.
func curlItems(t *testing.T, manifest string) map[string]struct {
	URL string `json:"url"`
} {
	t.Helper()
	var m struct {
		Sources map[string]struct {
			Items map[string]struct {
				URL string `json:"url"`
			} `json:"items"`
		} `json:"sources"`
	}
	if err := json.Unmarshal([]byte(manifest), &m); err != nil {
		t.Fatal(err)
	}
	return m.Sources["org.osbuild.curl"].Items
}

// manifestPackages are NAME-VERSION-RELEASE.ARCH of the manifest's packages, sorted.
func manifestPackages(t *testing.T, manifest string) []string {
	t.Helper()
	var out []string
	for _, item := range curlItems(t, manifest) {
		out = append(out, strings.TrimSuffix(filepath.Base(item.URL), ".rpm"))
	}
	slices.Sort(out)
	return out
}

func firstChecksum(t *testing.T, manifest string) string {
	t.Helper()
	return slices.Sorted(maps.Keys(curlItems(t, manifest)))[0]
}

// TestFirstExample builds the example of osbuild's first releases, but for its
// repository and the packages that ours has not got.
func TestFirstExample(t *testing.T) {
	d := newDebian(t)
	repo, mirror := rpmMirror(t)
	metadata, err := os.ReadFile(filepath.Join(repo, rpms.Releases, "repodata", "repomd.xml"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(repo, "RPM-GPG-KEY-test"))
	if err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	checksum := fmt.Sprintf("sha256:%x", sha256.Sum256(metadata))
	repository := object{"baseurl": mirror + "/" + rpms.Releases, "checksum": checksum, "gpgkey": string(key)}
	manifest := func(repository any) string {
		data, err := json.Marshal(object{
			"stages": []any{
				object{"name": "org.osbuild.dnf", "options": object{
					"releasever": "42", "basearch": "x86_64", "repos": []any{repository},
					"packages": []string{"@core", "openssh-server"}, "exclude_packages": []string{"dracut-config-rescue"},
				}},
				object{"name": "org.osbuild.systemd", "options": object{"enabled_services": []string{"getty@tty2"}}},
				object{"name": "org.osbuild.grub2", "options": object{"root_fs_uuid": "76a22bf4-f153-4541-b6c7-0332c0dfaeac"}},
			},
			"assembler": object{"name": "org.osbuild.qemu", "options": object{
				"format": "qcow2", "filename": "example.qcow2", "ptuuid": "0x7e83a7ba",
				"root_fs_uuid": "76a22bf4-f153-4541-b6c7-0332c0dfaeac", "size": 3221225472,
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "example.json")
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Log(d.run(t, d.store, "--export", "assembler", "--output-directory", d.dir, manifest(repository)))
	image := filepath.Join(d.dir, "assembler", "example.qcow2")
	raw := filepath.Join(d.dir, "example.raw")
	for _, command := range []struct {
		args []string
		want []string
	}{
		{[]string{"qemu-img", "info", image}, []string{"file format: qcow2", "virtual size: 3 GiB"}},
		{[]string{"qemu-img", "convert", "-O", "raw", image, raw}, nil},
		{[]string{"sfdisk", "--dump", raw}, []string{"label: dos", "label-id: 0x7e83a7ba", "start=        2048", "bootable"}},
		{[]string{"dumpe2fs", "-h", raw + "?offset=1048576"}, []string{"Filesystem UUID:          76a22bf4-f153-4541-b6c7-0332c0dfaeac"}},
		{[]string{"e2fsck", "-fn", raw + "?offset=1048576"}, nil},
		{[]string{"debugfs", "-R", "cat /boot/grub2/grub.cfg", raw + "?offset=1048576"}, []string{"76a22bf4-f153-4541-b6c7-0332c0dfaeac", "blscfg"}},
		{[]string{"debugfs", "-R", "ls /etc/systemd/system/getty.target.wants", raw + "?offset=1048576"}, []string{"getty@tty2.service"}},
	} {
		cmd := exec.Command(command.args[0], command.args[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C")
		if path, err := exec.LookPath("/usr/sbin/" + command.args[0]); err == nil {
			cmd.Path, cmd.Err = path, nil
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", command.args, err, out)
		}
		for _, want := range command.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("%v: no %q in\n%s", command.args, want, out)
			}
		}
	}
	sector := make([]byte, 512)
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(sector, 0); err != nil || !strings.Contains(string(sector), "GRUB") || sector[510] != 0x55 || sector[511] != 0xaa {
		t.Errorf("the boot sector is not GRUB's (%v)", err)
	}
	repository["checksum"] = "sha256:" + strings.Repeat("0", 64)
	d.fails(t, "nothing was installed", manifest(repository))
}
