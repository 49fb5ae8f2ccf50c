package inputs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/test/schema"
	"golang.org/x/sys/unix"
)

// fakeStore serves trees and downloads out of a folder.
type fakeStore struct{ dir string }

func (s fakeStore) tree(id string) string { return filepath.Join(s.dir, "trees", id) }

// ReadTree is not asked for by Ossify's own inputs.
func (s fakeStore) ReadTree(string) (string, error) { return "", errors.New("read-tree was asked for") }

// ReadTreeAt mounts a path of a tree as the engine does.
func (s fakeStore) ReadTreeAt(id, target, subtree string) (string, error) {
	if _, err := os.Stat(s.tree(id)); err != nil || id == "" {
		return "", nil
	}
	return target, sandbox.BindInside(s.tree(id), subtree, target)
}

// Source returns the folder of downloads.
func (s fakeStore) Source(contentType string) (string, error) {
	return filepath.Join(s.dir, "sources", contentType), nil
}

// Tempdir is not asked for by Ossify's own inputs.
func (s fakeStore) Tempdir() (string, error) { return "", errors.New("mkdtemp was asked for") }

// stage is a stage whose inputs are mapped: a folder with a store beside it.
type stage struct {
	t      *testing.T
	dir    string
	target string
}

// newStage makes a stage. apart puts a mount between the downloads and the
// stage's inputs, as the engine does.
func newStage(t *testing.T, apart bool) *stage {
	t.Helper()
	s := &stage{t: t, dir: t.TempDir()}
	inputs := filepath.Join(s.dir, "inputs")
	s.target = filepath.Join(inputs, "input")
	for _, dir := range []string{"store/trees/full/etc", "store/sources/org.osbuild.files", "inputs"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.write("store/trees/full/etc/hostname", "ossify\n")
	s.write("store/trees/full/etc/issue", "hello\n")
	if err := os.Symlink("/etc/hostname", filepath.Join(s.dir, "store/trees/full/link")); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"store/sources/org.osbuild.containers/sha256:aa/image/manifest.json": "{}",
		"store/trees/archive/b.tar":       "second",
		"store/trees/archive/a.tar":       "first",
		"store/trees/archive/A/file":      "in a folder",
		"store/trees/folders/etc/file":    "in a folder",
		"host/overlay/layer/diff/file":    "of a layer",
		"host/overlay-images/images.json": "[]",
		"host/overlay-layers/layers.json": "[]",
		"host/secrets/file":               "podman's",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(s.dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		s.write(name, content)
	}
	s.hostStorage("host")
	s.write("store/secret", "not yours")
	s.write("store/sources/org.osbuild.files/md5:00", "small")
	s.write("store/sources/org.osbuild.files/md5:11", strings.Repeat("large", bindFrom))
	// All that gets mounted goes with the first of these.
	bound := []string{s.dir}
	if apart {
		bound = append(bound, inputs)
	}
	for _, dir := range bound {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(s.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(s.target, 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := sandbox.ServeStore(filepath.Join(s.dir, "socket"), fakeStore{filepath.Join(s.dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return s
}

func (s *stage) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// hostStorage says in storage.conf where the container storage of the host is.
func (s *stage) hostStorage(dir string) {
	s.t.Helper()
	s.write("storage.conf", fmt.Sprintf("[storage]\ngraphroot = %q\nrunroot = %q\n", filepath.Join(s.dir, dir), filepath.Join(s.dir, "run")))
	s.t.Setenv("CONTAINERS_STORAGE_CONF", filepath.Join(s.dir, "storage.conf"))
}

// mapInput runs the input as a process of its own, as the engine does, and
// returns its reply with the target's path as TARGET, that of the folder as DIR.
func (s *stage) mapInput(name, origin, refs string) (string, error) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.Symlink(os.Getenv(program), path); err != nil && !errors.Is(err, fs.ErrExist) {
		s.t.Fatal(err)
	}
	service, err := sandbox.StartService(s.t.Context(), path, "", s.dir, "input/input")
	if err != nil {
		s.t.Fatal(err)
	}
	var reply json.RawMessage
	err = service.Call("map", map[string]any{
		"origin": origin, "refs": json.RawMessage(refs), "target": s.target, "options": map[string]any{},
		"api": map[string]string{"store": "socket"}, // relative, as the engine's
	}, &reply, nil)
	if err := service.Close(); err != nil {
		s.t.Error(err)
	}
	return strings.NewReplacer(s.target, "TARGET", s.dir, "DIR").Replace(string(reply)), err
}

// shown lists what the stage would see: each file, and the start of it.
func (s *stage) shown() string {
	s.t.Helper()
	var out []string
	err := filepath.WalkDir(s.target, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(s.target, path)
		if err != nil {
			return err
		}
		if e.Type() == fs.ModeSymlink {
			to, err := os.Readlink(path)
			out = append(out, rel+" -> "+to)
			return err
		}
		data, err := os.ReadFile(path)
		out = append(out, rel+" "+strings.TrimSpace(string(data[:min(len(data), 10)])))
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Join(out, ", ")
}

const (
	fromSource   = "org.osbuild.source"
	fromPipeline = "org.osbuild.pipeline"
)

// TestInputs is what each input shows and answers. Every input has a case that
// works and one that does not.
func TestInputs(t *testing.T) {
	tests := []struct {
		name, input, origin, refs string
		want, shown, failure      string
	}{
		{name: "downloads", input: "org.osbuild.files", origin: fromSource,
			refs:  `{"md5:11":{"metadata":{"rpm.check":1}},"md5:00":{}}`,
			want:  `{"data":{"files":{"md5:00":{},"md5:11":{"rpm.check":1}}},"path":"TARGET"}`,
			shown: "md5:00 small, md5:11 largelarge"},
		{name: "no reference", input: "org.osbuild.files", origin: fromSource, refs: `{}`,
			want: `{"data":{"files":{}},"path":"TARGET"}`},
		{name: "files of trees", input: "org.osbuild.files", origin: fromPipeline,
			refs:  `{"full":{"file":"/etc/hostname","metadata":{"a.b":true}}}`,
			want:  `{"data":{"files":{"etc/hostname":{"a.b":true}}},"path":"TARGET"}`,
			shown: "etc/hostname ossify"},
		{name: "a link in a tree leads to the tree's file", input: "org.osbuild.files", origin: fromPipeline,
			refs:  `{"full":{"file":"link"}}`,
			want:  `{"data":{"files":{"link":{}}},"path":"TARGET"}`,
			shown: "link ossify"},
		{name: "tree", input: "org.osbuild.tree", origin: fromPipeline, refs: `{"full":{}}`,
			want: `{"path":"TARGET"}`, shown: "etc/hostname ossify, etc/issue hello, link -> /etc/hostname"},
		{name: "images", input: "org.osbuild.containers", origin: fromSource, refs: `{"sha256:aa":{"name":"localhost/a"}}`,
			want:  `{"data":{"archives":{"sha256:aa":{"format":"dir","name":"localhost/a"}}},"path":"TARGET"}`,
			shown: "sha256:aa/manifest.json {}"},
		{name: "first archive", input: "org.osbuild.containers", origin: fromPipeline, refs: `{"archive":{"name":"localhost/a"}}`,
			want:  `{"data":{"archives":{"a.tar":{"format":"oci-archive","name":"localhost/a"}}},"path":"TARGET"}`,
			shown: "A/file in a folde, a.tar first, b.tar second"},
		{name: "storage of the host", input: "org.osbuild.containers-storage", origin: fromSource, refs: `{"sha256:aa":{"name":"localhost/a"}}`,
			want: `{"data":{"archives":{"sha256:aa":{"format":"containers-storage","name":"localhost/a",` +
				`"storage":{"driver":"overlay","graphroot":"DIR/host","runroot":"DIR/run"}}}},"path":"TARGET","writable":["storage"]}`,
			shown: "storage/overlay/layer/diff/file of a layer, storage/overlay-images/images.json [], storage/overlay-layers/layers.json []"},
		{name: "references", input: "org.osbuild.noop", origin: fromSource, refs: `{"x":{"a":1},"y":{}}`,
			want: `{"data":{"refs":{"x":{"a":1},"y":{}}},"path":"TARGET"}`},

		{name: "missing image", input: "org.osbuild.containers", origin: fromSource, refs: `{"sha256:bb":{"name":"a"}}`,
			failure: "image sha256:bb is not among the downloads"},
		{name: "no id", input: "org.osbuild.containers", origin: fromSource, refs: `{"../sha256:aa":{"name":"a"}}`,
			failure: `reference "../sha256:aa" is no id`},
		{name: "no name", input: "org.osbuild.containers", origin: fromSource, refs: `{"sha256:aa":{}}`,
			failure: "gives the image no name"},
		{name: "no archive", input: "org.osbuild.containers", origin: fromPipeline, refs: `{"folders":{"name":"a"}}`,
			failure: "no file in its root directory"},
		{name: "two archives", input: "org.osbuild.containers", origin: fromPipeline, refs: `{"archive":{"name":"a"},"full":{"name":"b"}}`,
			failure: "got 2 references"},
		{name: "no tree", input: "org.osbuild.containers", origin: fromPipeline, refs: `{"none":{"name":"a"}}`,
			failure: "no tree none in the store"},
		{name: "images of nowhere", input: "org.osbuild.containers", origin: "org.osbuild.moon", refs: `{}`,
			failure: "org.osbuild.moon"},
		{name: "name in the storage", input: "org.osbuild.containers-storage", origin: fromSource, refs: `{"sha256:aa":{}}`,
			failure: "gives the image no name"},
		{name: "storage of a pipeline", input: "org.osbuild.containers-storage", origin: fromPipeline, refs: `{"full":{"name":"a"}}`,
			failure: "use org.osbuild.source"},
		{name: "no references", input: "org.osbuild.noop", origin: fromSource, refs: `[]`,
			failure: "decode map call"},
		{name: "missing download", input: "org.osbuild.files", origin: fromSource, refs: `{"md5:22":{}}`,
			failure: "md5:22 is not among the downloads"},
		{name: "no checksum", input: "org.osbuild.files", origin: fromSource, refs: `{"../../secret":{}}`,
			failure: `reference "../../secret" is no checksum`},
		{name: "the folder of downloads itself", input: "org.osbuild.files", origin: fromSource, refs: `{".":{}}`,
			failure: `reference "." is no checksum`},
		{name: "file of a download", input: "org.osbuild.files", origin: fromSource, refs: `{"md5:00":{"file":"x"}}`,
			failure: "only a reference to a pipeline has a file"},
		{name: "no file", input: "org.osbuild.files", origin: fromPipeline, refs: `{"full":{}}`,
			failure: "needs a file"},
		{name: "file outside the tree", input: "org.osbuild.files", origin: fromPipeline, refs: `{"full":{"file":"../../secret"}}`,
			failure: "leaves the tree"},
		{name: "missing file", input: "org.osbuild.files", origin: fromPipeline, refs: `{"full":{"file":"etc/motd"}}`,
			failure: "etc/motd"},
		{name: "file of an unknown tree", input: "org.osbuild.files", origin: fromPipeline, refs: `{"none":{"file":"etc/motd"}}`,
			failure: "no tree none in the store"},
		{name: "no object", input: "org.osbuild.files", origin: fromSource, refs: `{"md5:00":[]}`,
			failure: `decode reference "md5:00"`},
		{name: "files of nowhere", input: "org.osbuild.files", origin: "org.osbuild.moon", refs: `{}`,
			failure: "org.osbuild.moon"},
		{name: "unknown tree", input: "org.osbuild.tree", origin: fromPipeline, refs: `{"none":{}}`,
			failure: "no tree none in the store"},
		{name: "two trees", input: "org.osbuild.tree", origin: fromPipeline, refs: `{"full":{},"none":{}}`,
			failure: "got 2 references"},
		{name: "empty pipeline", input: "org.osbuild.tree", origin: fromPipeline, refs: `{"":{}}`,
			failure: "has no stages"},
		{name: "tree of a source", input: "org.osbuild.tree", origin: fromSource, refs: `{"full":{}}`,
			failure: "use org.osbuild.pipeline"},
	}
	works, fails := map[string]bool{}, map[string]bool{}
	for _, test := range tests {
		for where, apart := range map[string]bool{"same mount": false, "other mount": true} {
			t.Run(test.input+"/"+test.name+"/"+where, func(t *testing.T) {
				s := newStage(t, apart)
				got, err := s.mapInput(test.input, test.origin, test.refs)
				if test.failure != "" {
					if err == nil || !strings.Contains(err.Error(), test.failure) {
						t.Errorf("got %s, %v; want an error with %q", got, err, test.failure)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got != test.want {
					t.Errorf("got %s, want %s", got, test.want)
				}
				if got := s.shown(); got != test.shown {
					t.Errorf("shown: %s; want %s", got, test.shown)
				}
			})
		}
		if test.failure == "" {
			works[test.input] = true
		} else {
			fails[test.input] = true
		}
	}
	for _, input := range All {
		if !works[input.Name] || !fails[input.Name] {
			t.Errorf("%s: an accepted and a refused case are needed", input.Name)
		}
	}
}

// TestHowDownloadsAreProvided: nothing is copied that can be had for nothing.
func TestHowDownloadsAreProvided(t *testing.T) {
	for _, test := range []struct {
		name  string
		apart bool
		same  map[string]bool
	}{
		{name: "same mount: links", same: map[string]bool{"md5:00": true, "md5:11": true}},
		{name: "other mount: large ones are mounted", apart: true, same: map[string]bool{"md5:00": false, "md5:11": true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStage(t, test.apart)
			if _, err := s.mapInput("org.osbuild.files", fromSource, `{"md5:00":{},"md5:11":{}}`); err != nil {
				t.Fatal(err)
			}
			for name, want := range test.same {
				ours, err1 := os.Stat(filepath.Join(s.dir, "store/sources/org.osbuild.files", name))
				theirs, err2 := os.Stat(filepath.Join(s.target, name))
				if err1 != nil || err2 != nil || os.SameFile(ours, theirs) != want {
					t.Errorf("%s: the same file: %v, %v, %v; want %v", name, os.SameFile(ours, theirs), err1, err2, want)
				}
			}
		})
	}
}

// TestStorageOfTheHost: a stage may change the storage that it is shown, and
// nothing of the host's changes.
func TestStorageOfTheHost(t *testing.T) {
	s := newStage(t, true)
	if _, err := s.mapInput("org.osbuild.containers-storage", fromSource, `{"sha256:aa":{"name":"a"}}`); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"new": nil, "overlay-images/images.json": nil, "overlay-layers/new": nil,
		"overlay/new": unix.EROFS, "overlay/layer/diff/file": unix.EROFS,
	} {
		if err := os.WriteFile(filepath.Join(s.target, "storage", name), []byte("changed"), 0o644); !errors.Is(err, want) {
			t.Errorf("write %s: got %v, want %v", name, err, want)
		}
	}
	for name, want := range map[string]string{
		"overlay-images/images.json": "[]", "overlay/layer/diff/file": "of a layer", "overlay-layers/new": "", "new": "",
	} {
		if got, err := os.ReadFile(filepath.Join(s.dir, "host", name)); string(got) != want || (want == "") != (err != nil) {
			t.Errorf("%s of the host: %q, %v", name, got, err)
		}
	}
}

// TestNoStorageOnTheHost says what to do where podman was never used.
func TestNoStorageOnTheHost(t *testing.T) {
	s := newStage(t, true)
	s.hostStorage("nothing")
	_, err := s.mapInput("org.osbuild.containers-storage", fromSource, `{"sha256:aa":{"name":"a"}}`)
	if err == nil || !strings.Contains(err.Error(), "there is no container storage") || !strings.Contains(err.Error(), "podman pull") {
		t.Errorf("got %v", err)
	}
}

// TestTwoTreesWithTheSameFile: one would hide the other.
func TestTwoTreesWithTheSameFile(t *testing.T) {
	s := newStage(t, true)
	if err := os.CopyFS(filepath.Join(s.dir, "store/trees/other"), os.DirFS(filepath.Join(s.dir, "store/trees/full"))); err != nil {
		t.Fatal(err)
	}
	_, err := s.mapInput("org.osbuild.files", fromPipeline, `{"full":{"file":"etc/issue"},"other":{"file":"/etc/issue"}}`)
	if err == nil || !strings.Contains(err.Error(), "two references provide etc/issue") {
		t.Errorf("got %v", err)
	}
}

// TestSchemas compiles the schema of every input and tries it.
func TestSchemas(t *testing.T) {
	schema.Check(t, All, Schemas)
}
