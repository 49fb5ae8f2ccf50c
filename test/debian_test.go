package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ossify/ossify/boot"
)

// blueprint is the sample with what the test looks for inside the machine.
const blueprint = `name = "e2e"
distro = "debian-12"
packages = [{ name = "iputils-ping" }, { name = "openssh-server" }, { name = "sudo" }, { name = "libcap2-bin" }]

[customizations]
hostname = "HOSTNAME"

[[customizations.user]]
name = "demo"
password = "$6$ossifydemo$eN5BDOI11U1qmt6hHy1J93QgbXtjYFNCa52pGtoGLJjE1jmnstj2npe4yblhiyqXzFjLuQK3NcvISFRzolgMC."
groups = ["sudo"]

[customizations.services]
enabled = ["ssh"]
`

// debian is a store with the images of a blueprint.
type debian struct {
	ossify, dir, store string
}

func newDebian(t *testing.T) *debian {
	t.Helper()
	dir := workDir(t)
	return &debian{ossify: program(t), dir: dir, store: filepath.Join(dir, "store")}
}

// run runs ossify and returns what it printed.
func (d *debian) run(t *testing.T, store string, args ...string) string {
	t.Helper()
	cmd := exec.Command(d.ossify, args...)
	cmd.Env = append(os.Environ(), "OSSIFY_STORE="+store)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("ossify %s: %v\n%s\n%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// compose builds the blueprint's image in a folder and returns its path.
func (d *debian) compose(t *testing.T, store, hostname, output string, args ...string) (image, log string) {
	t.Helper()
	path := filepath.Join(d.dir, hostname+".toml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(blueprint, "HOSTNAME", hostname)), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(d.dir, output)
	log = d.run(t, store, append([]string{"compose", path, "-o", out}, args...)...)
	return filepath.Join(out, "disk.qcow2"), log
}

func sum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

var (
	ranStages  = regexp.MustCompile(`stages: (\d+) ran, (\d+) cached`)
	downloaded = regexp.MustCompile(`org\.osbuild\.curl .* (\d+) downloaded`)
)

// TestDebian builds a Debian image from packages, boots it with both firmwares
// and looks at it from inside; changes it; and builds it again elsewhere.
func TestDebian(t *testing.T) {
	d := newDebian(t)
	start := time.Now()
	image, log := d.compose(t, d.store, "one", "out")
	whole := time.Since(start)
	t.Log(log)

	t.Run("bios", func(t *testing.T) { login(t, image, "bios", "one") })
	t.Run("uefi", func(t *testing.T) { login(t, image, "uefi", "one") })

	t.Run("nothing to do", func(t *testing.T) {
		_, log := d.compose(t, d.store, "one", "out")
		if m := ranStages.FindStringSubmatch(log); m == nil || m[1] != "0" {
			t.Errorf("stages ran:\n%s", log)
		}
	})

	t.Run("another hostname", func(t *testing.T) {
		_, log := d.compose(t, d.store, "two", "two")
		if m := downloaded.FindStringSubmatch(log); m != nil && m[1] != "0" {
			t.Errorf("something was downloaded:\n%s", log)
		}
		before, after, ok := strings.Cut(log, "org.osbuild.hostname")
		if !ok {
			t.Fatalf("no hostname stage:\n%s", log)
		}
		for _, line := range strings.Split(before, "\n") {
			if strings.HasPrefix(line, "  org.") && !strings.HasSuffix(line, "cached") {
				t.Errorf("ran before the hostname: %s", line)
			}
		}
		if !strings.Contains(after, "org.ossify.disk") {
			t.Errorf("no disk was written:\n%s", log)
		}
	})

	t.Run("same bytes in another store after kills", func(t *testing.T) {
		other := filepath.Join(d.dir, "store2")
		// The packages need not come over the network twice.
		if err := os.MkdirAll(other, 0o755); err != nil {
			t.Fatal(err)
		}
		d.run(t, d.store, "unshare", "cp", "-a", filepath.Join(d.store, "sources"), other)
		d.killBuilds(t, other, whole)
		second, _ := d.compose(t, other, "one", "again")
		if a, b := sum(t, image), sum(t, second); a != b {
			t.Errorf("first image %s, second %s", a, b)
		}
		left(t, other)
	})
}

// killBuilds kills builds of the blueprint at random moments. Each has another
// source-epoch, so that nothing of it is cached and every stage has its turn.
func (d *debian) killBuilds(t *testing.T, store string, whole time.Duration) {
	t.Helper()
	text := d.run(t, store, "compose", filepath.Join(d.dir, "one.toml"), "--manifest-only")
	epoch := regexp.MustCompile(`"source-epoch": ?(\d+)`).FindStringSubmatch(text)
	if epoch == nil {
		t.Fatalf("no source-epoch in %s", text)
	}
	last, err := strconv.Atoi(epoch[1])
	if err != nil {
		t.Fatal(err)
	}
	killed, n := 0, kills(t, 3)
	for i := range n {
		manifest := strings.ReplaceAll(text, epoch[0], fmt.Sprintf(`"source-epoch": %d`, last-1-i))
		path := filepath.Join(d.dir, "killed.json")
		if err := os.WriteFile(path, []byte(manifest), 0o644); err != nil {
			t.Fatal(err)
		}
		build := exec.Command(d.ossify, "--quiet", "--store", store, "--export", "qcow2", "--output-directory", filepath.Join(d.dir, "killed"), path)
		if kill(t, build, i, whole) {
			killed++
		}
		waitGone(t, store)
	}
	t.Logf("%d of %d builds were killed before their end", killed, n)
}

// TestBuildPipeline builds with a Debian tree as build root, not the host.
func TestBuildPipeline(t *testing.T) {
	d := newDebian(t)
	image, log := d.compose(t, d.store, "tree", "out", "--build-root", "tree")
	if !strings.Contains(log, "build") {
		t.Errorf("no build pipeline:\n%s", log)
	}
	login(t, image, "bios", "tree")
}

// login boots the image, logs in on the serial console and looks around.
func login(t *testing.T, image, firmware, hostname string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	before := sum(t, image)
	m, err := boot.Start(ctx, boot.Options{Image: image, Accel: "tcg", Firmware: firmware, Memory: 1024, CPUs: 2, Stdout: io.Discard, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Login(ctx, "demo", "ossify"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ command, want string }{
		{"hostname", `^` + hostname + `$`},
		{"systemctl is-system-running --wait", `^running$`},
		{"systemctl is-active ssh", `^active$`},
		{"/sbin/getcap /usr/bin/ping", `^/usr/bin/ping cap_net_raw=ep$`},
		{"stat -c '%a %u:%g' /usr/bin/su", `^4755 0:0$`},
		{"id -nG", `^demo.* sudo`},
		{"test -d /sys/firmware/efi && echo uefi || echo bios", `^` + firmware + `$`},
	} {
		out, status, err := m.Command(ctx, c.command)
		if err != nil {
			t.Fatalf("%s: %v", c.command, err)
		}
		// The kernel may write to the console between the lines.
		if !regexp.MustCompile(`(?m)` + c.want).MatchString(out) {
			t.Errorf("%s: status %d: %s", c.command, status, out)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if sum(t, image) != before {
		t.Error("the image was changed by booting it")
	}
}
