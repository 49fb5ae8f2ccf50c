package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// flipManifest has files of several kinds: with holes, hard links, attributes, and a download.
const flipManifest = `{"version": "2", "pipelines": [
  {"name": "tree", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/etc"}]}},
    {"type": "org.osbuild.copy", "options": {"paths": [{"from": "input://f/sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", "to": "tree:///etc/hello"}]}, "inputs": {"f": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": ["sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"]}}},
    {"type": "org.test.files"},
    {"type": "org.osbuild.chattr", "options": {"items": {"tree:///etc/hello": {"immutable": true}}}},
    {"type": "org.osbuild.chmod", "options": {"items": {"/etc/hello": {"mode": "a+x"}}}}]},
  {"name": "tar", "source-epoch": 1700000000, "stages": [
    {"type": "org.osbuild.tar", "options": {"filename": "tree.tar"},
     "inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}}}]}],
 "sources": {"org.osbuild.inline": {"items": {"sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03": {"encoding": "base64", "data": "aGVsbG8K"}}}}}`

const flipStage = `#!/bin/sh
cd /run/osbuild/tree
truncate -s 1M holes
printf data | dd of=holes bs=1 seek=500000 conv=notrunc 2>/dev/null
ln holes linked
ln -s holes symbolic
echo '{"files": 3}' >/run/osbuild/meta
`

// flips is a store whose files a test damages.
type flips struct {
	t                  *testing.T
	ossify, dir, store string
}

func newFlips(t *testing.T) *flips {
	t.Helper()
	f := &flips{t: t, ossify: program(t), dir: workDir(t)}
	f.store = filepath.Join(f.dir, "store")
	for name, text := range map[string]string{
		"m.json": flipManifest, "lib/stages/org.test.files": flipStage,
		"lib/stages/org.test.files.meta.json": `{"summary": "Make files", "description": [], "schema_2": {}}`,
	} {
		path := filepath.Join(f.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *flips) run(args ...string) (string, error) {
	out, err := exec.Command(f.ossify, append(args, "--store", f.store)...).CombinedOutput()
	return string(out), err
}

// try builds the manifest.
func (f *flips) try() (string, error) {
	return f.run("--quiet", "--libdir", filepath.Join(f.dir, "lib"), "--export", "tar", "--output-directory", filepath.Join(f.dir, "out"), filepath.Join(f.dir, "m.json"))
}

// build builds it and returns the checksum of the archive.
func (f *flips) build() string {
	f.t.Helper()
	if out, err := f.try(); err != nil {
		f.t.Fatalf("%v\n%s", err, out)
	}
	return sum(f.t, filepath.Join(f.dir, "out/tar/tree.tar"))
}

// sh runs a script on a file of the store, with the place for a copy.
func (f *flips) sh(script, path string) {
	f.t.Helper()
	if out, err := exec.Command(f.ossify, "unshare", "sh", "-c", script, "sh", path, filepath.Join(f.dir, "copy")).CombinedOutput(); err != nil {
		f.t.Fatalf("%s: %v\n%s", path, err, out)
	}
}

// flip changes a bit in the middle of a file, or changes it back; its times stay, as when a disk fails.
func (f *flips) flip(path string) {
	f.t.Helper()
	f.sh(`s=$(stat -c %s "$1") && touch -r "$1" "$2" && b=$(dd if="$1" bs=1 skip=$((s / 2)) count=1 2>/dev/null | od -An -tu1) &&
		printf "\\$(printf %o $((b ^ 4)))" | dd of="$1" bs=1 seek=$((s / 2)) conv=notrunc 2>/dev/null && touch -r "$2" "$1"`, path)
}

// TestFlippedBits changes a bit of each file that the store is made of, one after the other: check
// names it each time, and finds nothing when the bit is as it was. In the end it changes all
// of them: repairing and building gives the bytes of before.
func TestFlippedBits(t *testing.T) {
	f := newFlips(t)
	want := f.build()
	files := f.files()
	if len(files) < 40 {
		t.Fatalf("only %d files: %q", len(files), files)
	}
	for _, path := range files {
		name := strings.TrimPrefix(path, f.store+"/")
		f.flip(path)
		if out, err := f.run("store", "check"); err == nil {
			t.Errorf("%s: not found\n%s", name, out)
		}
		f.flip(path)
		if out, err := f.run("store", "check"); err != nil {
			t.Fatalf("%s is as it was: %v\n%s", name, err, out)
		}
	}
	t.Logf("%d files", len(files))
	for _, path := range files {
		if !strings.HasSuffix(path, ".json") {
			f.flip(path)
		}
	}
	if out, err := f.run("store", "check", "--repair"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := f.run("store", "check"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if got := f.build(); got != want {
		t.Errorf("the build gives %s, before %s", got, want)
	}
}

// TestBrokenMetadata empties, cuts off and spoils each file that is no content: a build takes it for what it is, or says
// what is wrong.
func TestBrokenMetadata(t *testing.T) {
	f := newFlips(t)
	want := f.build()
	out, err := exec.Command(f.ossify, "unshare", "find", f.store, "-type", "f", "!", "-path", "*/diff/*", "!", "-path", "*/sources/*", "!", "-path", "*/lib/*").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	damages := []string{`: >"$1"`, `printf '\0{garbage' >"$1"`}
	if os.Getenv("OSSIFY_TEST_FAULTS") != "" {
		damages = append(damages, `truncate -s $(($(stat -c %s "$1") / 2)) "$1"`, `rm "$1"`)
	}
	refused := 0
	files := strings.Fields(string(out))
	for _, path := range files {
		name := strings.TrimPrefix(path, f.store+"/")
		for _, damage := range damages {
			f.sh(`cp -a "$1" "$2"`, path)
			f.sh(damage, path)
			text, err := f.try()
			if strings.Contains(text, "goroutine ") || strings.Contains(text, "panic") || err != nil && !strings.Contains(text, "ossify: ") {
				t.Errorf("%s: %s: %v\n%s", name, damage, err, text)
			}
			if err != nil {
				refused++
				if !strings.Contains(text, filepath.Base(path)) {
					t.Errorf("%s: %s: the message does not name it: %s", name, damage, text)
				}
				// Nothing was touched.
				f.sh(`cp -a "$2" "$1"`, path)
			} else if got := sum(t, filepath.Join(f.dir, "out/tar/tree.tar")); got != want {
				t.Errorf("%s: %s: the build gives other bytes", name, damage)
			}
		}
	}
	t.Logf("%d files, %d times a build was refused", len(files), refused)
	if out, err := f.run("store", "check", "--repair"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if got := f.build(); got != want {
		t.Errorf("the build gives %s, before %s", got, want)
	}
}

// files lists the files whose content matters: empty ones have none, and others are written
// anew when they are not what they were.
func (f *flips) files() []string {
	f.t.Helper()
	out, err := exec.Command(f.ossify, "unshare", "find", filepath.Join(f.store, "storage"), filepath.Join(f.store, "sources"), "-type", "f", "-size", "+0").CombinedOutput()
	if err != nil {
		f.t.Fatalf("%v\n%s", err, out)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(path string) bool {
		name := filepath.Base(path)
		return strings.HasSuffix(name, ".lock") || strings.HasPrefix(name, ".has-") || strings.HasPrefix(name, ".native-") || name == "defaultNetworkBackend"
	})
}
