package root

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// powerManifest writes some files, of which each number has its own.
const powerManifest = `{"version": "2", "pipelines": [
  {"name": "tree", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/etc"}, {"path": "/data"}]}},
    {"type": "org.test.write", "options": {"n": %[1]d}},
    {"type": "org.osbuild.hostname", "options": {"hostname": "host-%[1]d"}},
    {"type": "org.test.write", "options": {"n": 1%[1]d}}]},
  {"name": "tar", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.tar", "options": {"filename": "tree.tar"},
     "inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}}}]}]}`

const powerStage = `#!/bin/sh
n=$(sed 's/.*"n": *\([0-9]*\).*/\1/' /run/osbuild/api/arguments)
yes "line of $n" | head -c 300000 >/run/osbuild/tree/data/large-$n
for i in 1 2 3 4 5 6 7 8 9; do echo "$n $i" >/run/osbuild/tree/data/small-$n-$i; done
`

// power is a store on a disk of which one can have snapshots: what has reached it at that moment, as
// after a power cut.
type power struct {
	t            *testing.T
	user, ossify string
	// dir holds host, a filesystem with the image of the disk, and disk, where that is mounted.
	dir string

	mu sync.Mutex
	// committed are the ids of trees whose builds have ended.
	committed []string
}

// snapshot is the disk as it was, with what was committed before.
type snapshot struct {
	image     string
	committed []string
}

// TestPowerCut takes snapshots of the disk while builds write to the store: each is a whole store, with
// all that was committed, and a build on it gives what it gives elsewhere.
func TestPowerCut(t *testing.T) {
	if os.Getenv("OSSIFY_TEST_OWN_MOUNTS") == "" {
		ownMounts(t)
		return
	}
	n := 10
	if os.Getenv("OSSIFY_TEST_FAULTS") != "" {
		n = 200
	}
	p := newPower(t)
	want := p.build(filepath.Join(p.dir, "disk/reference"), 0)

	stop := make(chan struct{})
	var builds sync.WaitGroup
	builds.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
				p.commit(i)
			}
		}
	})
	snapshots := make([]snapshot, n)
	for i := range snapshots {
		time.Sleep(time.Duration(rand.Int64N(int64(900 * time.Millisecond)))) // anywhere in a build
		snapshots[i] = p.snapshot(i)
	}
	close(stop)
	builds.Wait()

	unknown, checkpoints := 0, 0
	for i, s := range snapshots {
		u, c := p.after(i, s, want)
		unknown, checkpoints = unknown+u, checkpoints+c
	}
	t.Logf("%d power cuts; %d trees committed, %d checkpoints whole in all snapshots together, %d without their sums", n, len(p.committed), checkpoints, unknown)
}

// ownMounts runs the test in a mount namespace of its own, as copies of its mounts in those of others would
// keep the disks.
func ownMounts(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", self, "-test.v", "-test.timeout=0", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "OSSIFY_TEST_OWN_MOUNTS=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

func newPower(t *testing.T) *power {
	t.Helper()
	p := &power{t: t, user: fmt.Sprintf("ossify-power-%d", os.Getpid()), ossify: program(t)}
	output(t, "useradd", "--create-home", "--user-group", p.user)
	t.Cleanup(func() { output(t, "userdel", "-r", p.user) })
	var err error
	if p.dir, err = os.MkdirTemp("/var/tmp", "ossify-test-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(p.dir); err != nil {
			t.Error(err)
		}
	})
	for name, text := range map[string]string{
		"lib/stages/org.test.write":           powerStage,
		"lib/stages/org.test.write.meta.json": `{"summary": "Write files", "description": [], "schema_2": {}}`,
	} {
		path := filepath.Join(p.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{p.dir, filepath.Join(p.dir, "host"), filepath.Join(p.dir, "disk")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	output(t, "install", "-m", "755", p.ossify, filepath.Join(p.dir, "ossify"))
	p.ossify = filepath.Join(p.dir, "ossify")

	// A clone of a file on XFS has all that was written to it, at one moment.
	output(t, "truncate", "-s", "8G", filepath.Join(p.dir, "host.img"))
	output(t, "mkfs.xfs", "-q", "-m", "reflink=1", filepath.Join(p.dir, "host.img"))
	p.mount(filepath.Join(p.dir, "host.img"), "host", "loop")
	image := filepath.Join(p.dir, "host/disk.img")
	output(t, "truncate", "-s", "2G", image)
	output(t, "mkfs.ext4", "-q", image)
	// Nothing is written back but what somebody waits for, or there is much of.
	p.mount(image, "disk", "loop,commit=300")
	output(t, "chown", p.user+":", filepath.Join(p.dir, "disk"))
	return p
}

// mount mounts an image until the end of the test.
func (p *power) mount(image, name, options string) {
	p.t.Helper()
	point := filepath.Join(p.dir, name)
	output(p.t, "mount", "-o", options, image, point)
	p.t.Cleanup(func() { unmount(p.t, point) })
}

// unmount waits for loop devices of files below, which go a little after what was mounted from them.
func unmount(t *testing.T, point string) {
	t.Helper()
	var out []byte
	var err error
	for range 200 {
		if out, err = exec.Command("umount", point).CombinedOutput(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("umount %s: %v\n%s", point, err, out)
}

// run runs the program as the user.
func (p *power) run(store string, args ...string) (string, error) {
	cmd := exec.Command("su", p.user, "-s", "/bin/sh", "-c", `exec "$0" "$@"`, "--", p.ossify)
	cmd.Args = append(cmd.Args, args...)
	cmd.Args = append(cmd.Args, "--store", store)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// manifest writes that of the number.
func (p *power) manifest(n int) string {
	path := filepath.Join(p.dir, fmt.Sprintf("%d.json", n))
	if err := os.WriteFile(path, fmt.Appendf(nil, powerManifest, n), 0o644); err != nil {
		p.t.Error(err)
	}
	return path
}

// build builds the manifest of the number and returns the checksum of its archive.
func (p *power) build(store string, n int) string {
	p.t.Helper()
	out := store + ".out"
	if text, err := p.run(store, "--quiet", "--libdir", filepath.Join(p.dir, "lib"), "--export", "tar", "--output-directory", out, p.manifest(n)); err != nil {
		p.t.Fatalf("%v\n%s", err, text)
	}
	return strings.Fields(output(p.t, "sha256sum", filepath.Join(out, "tar/tree.tar")))[0]
}

var treeID = regexp.MustCompile(`(?m)^tree:\t([0-9a-f]{64})$`)

// commit builds the manifest of the number, and notes what is committed when it has ended.
func (p *power) commit(n int) {
	text, err := p.run(filepath.Join(p.dir, "disk/store"), "--libdir", filepath.Join(p.dir, "lib"), p.manifest(n))
	id := treeID.FindStringSubmatch(text)
	if err != nil || id == nil {
		p.t.Errorf("build %d: %v\n%s", n, err, text)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.committed = append(p.committed, id[1])
}

func (p *power) snapshot(i int) snapshot {
	p.t.Helper()
	p.mu.Lock()
	s := snapshot{filepath.Join(p.dir, fmt.Sprintf("host/%d.img", i)), append([]string(nil), p.committed...)}
	p.mu.Unlock()
	output(p.t, "cp", "--reflink=always", filepath.Join(p.dir, "host/disk.img"), s.image)
	return s
}

// after looks at a snapshot, as the machine's next start would find it.
func (p *power) after(i int, s snapshot, want string) (unknown, checkpoints int) {
	p.t.Helper()
	point := filepath.Join(p.dir, "after")
	if err := os.MkdirAll(point, 0o755); err != nil {
		p.t.Fatal(err)
	}
	output(p.t, "mount", "-o", "loop", s.image, point)
	defer func() {
		unmount(p.t, point)
		if err := os.Remove(s.image); err != nil {
			p.t.Error(err)
		}
	}()
	store := filepath.Join(point, "store")
	if _, err := os.Stat(store); err != nil && len(s.committed) == 0 {
		return 0, 0 // the cut came before the first file
	}
	text, err := p.run(store, "store", "check", "--json")
	if err != nil {
		p.t.Errorf("cut %d: %v\n%s", i, err, text)
	}
	var found struct{ Checkpoints, Unknown int }
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		p.t.Errorf("cut %d: %v\n%s", i, err, text)
	}
	list, err := p.run(store, "store", "ls", "--json")
	if err != nil {
		p.t.Errorf("cut %d: %v\n%s", i, err, list)
	}
	for _, id := range s.committed {
		if !strings.Contains(list, id) {
			p.t.Errorf("cut %d: the tree %s was committed before, and is gone", i, id)
		}
	}
	if got := p.build(store, 0); got != want {
		p.t.Errorf("cut %d: the build gives %s, elsewhere %s", i, got, want)
	}
	return found.Unknown, found.Checkpoints
}
