package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the expected results in testdata")

const simple = "name = \"test\"\n[customizations]\nhostname = \"one\"\n"

func mustCompose(t *testing.T, bp *Blueprint, opts Options) []byte {
	t.Helper()
	data, err := Manifest(context.Background(), bp, opts)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func checkGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (run with -update to accept):\n%s", path, got)
	}
}

func TestManifest(t *testing.T) {
	r := newRepository(t, standard())
	bp, err := ReadBlueprint("testdata/full.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		golden string
		change func(*Options)
	}{
		{"full.qcow2.json", func(*Options) {}},
		{"full.raw.json", func(o *Options) { o.Type = "raw"; o.BuildRoot = "tree" }},
		{"full.tar.json", func(o *Options) { o.Type = "tar" }},
	} {
		opts := r.options()
		c.change(&opts)
		first := mustCompose(t, bp, opts)
		again := mustCompose(t, bp, opts)
		other := opts
		other.StateDir = filepath.Join(t.TempDir(), "other")
		if !bytes.Equal(first, again) || !bytes.Equal(first, mustCompose(t, bp, other)) {
			t.Errorf("%s: the same repository gives different manifests", c.golden)
		}
		checkPinned(t, decode(t, first))
		checkGolden(t, c.golden, first)
	}
}

type decoded struct {
	Pipelines []struct {
		Name, Build, Runner string
		Stages              []struct {
			Type    string
			Inputs  map[string]struct{ References any }
			Options json.RawMessage
		}
	}
	Sources map[string]struct {
		Items map[string]struct {
			URL  string
			Size int64
			Data string
		}
	}
}

func decode(t *testing.T, data []byte) decoded {
	t.Helper()
	var m decoded
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// checkPinned tells whether every reference has a source with all it needs.
func checkPinned(t *testing.T, m decoded) {
	t.Helper()
	for _, p := range m.Pipelines {
		for _, s := range p.Stages {
			refs, ok := s.Inputs["packages"].References.(map[string]any)
			if !ok {
				continue
			}
			if len(refs) < 15 {
				t.Errorf("only %d packages", len(refs))
			}
			for ref := range refs {
				item := m.Sources["org.osbuild.curl"].Items[ref]
				if item.Size < 1000 || !strings.HasPrefix(item.URL, "http://mirror.invalid/debian/pool/") {
					t.Errorf("package %s is not pinned: %+v", ref, item)
				}
			}
		}
	}
}

func TestHostnameReruns(t *testing.T) {
	r := newRepository(t, standard())
	opts := r.options()
	a := decode(t, mustCompose(t, blueprint(t, simple), opts))
	b := decode(t, mustCompose(t, blueprint(t, strings.Replace(simple, "one", "two", 1)), opts))
	for i := range a.Pipelines[0].Stages {
		x, y := a.Pipelines[0].Stages[i], b.Pipelines[0].Stages[i]
		if x.Type == "org.osbuild.hostname" {
			return
		}
		if !reflect.DeepEqual(x, y) {
			t.Errorf("stage %d (%s) changes with the host name", i, x.Type)
		}
	}
	t.Error("there is no stage org.osbuild.hostname")
}

func TestMaxAge(t *testing.T) {
	r := newRepository(t, standard())
	opts := r.options()
	opts.MaxAge = 24 * time.Hour
	first := mustCompose(t, blueprint(t, simple), opts)
	before := r.requests.Load()
	if !bytes.Equal(first, mustCompose(t, blueprint(t, simple), opts)) {
		t.Error("the second manifest differs")
	}
	if n := r.requests.Load() - before; n != 0 {
		t.Errorf("the mirror was asked %d times although the metadata is fresh", n)
	}
	opts.MaxAge = 0
	mustCompose(t, blueprint(t, simple), opts)
	if r.requests.Load() == before {
		t.Error("the mirror was not asked although MaxAge is zero")
	}
}

// A repository that changes gives another solution.
func TestRepositoryChanges(t *testing.T) {
	r := newRepository(t, standard())
	opts := r.options()
	bp := blueprint(t, simple)
	first := mustCompose(t, bp, opts)
	entries := append(standard(), entry{"libc6", "2.36-10", ""})
	r.publish("bookworm", entries)
	second := mustCompose(t, bp, opts)
	if bytes.Equal(first, second) || !bytes.Contains(second, []byte("libc6_2.36-10_amd64.deb")) {
		t.Error("the new version is not in the manifest")
	}
}

func TestSuites(t *testing.T) {
	r := newRepository(t, standard())
	r.publish("bookworm-updates", []entry{{"tzdata", "2024b", "Priority: required"}})
	r.publish("bookworm-security", []entry{{"openssh-server", "1:9.2p1-3", ""}})
	opts := r.options()
	opts.SecurityMirror = r.url
	text := string(mustCompose(t, blueprint(t, "name = \"x\"\n[[packages]]\nname = \"openssh-server\"\nversion = \"1:9.2*\"\n"), opts))
	for _, deb := range []string{"tzdata_2024b_amd64.deb", "openssh-server_9.2p1-3_amd64.deb"} {
		if !strings.Contains(text, deb) {
			t.Errorf("%s is not in the manifest", deb)
		}
	}
}

func TestWeakDependenciesOfDebian(t *testing.T) {
	r := newRepository(t, append(standard(), entry{"web", "1", "Recommends: web-docs"}, entry{"web-docs", "1", ""}))
	opts := r.options()
	bp := blueprint(t, "name = \"x\"\npackages = [{ name = \"web\" }]\n")
	for _, weak := range []bool{false, true} {
		opts.WeakDependencies = weak
		if got := strings.Contains(string(mustCompose(t, bp, opts)), "web-docs_1_amd64.deb"); got != weak {
			t.Errorf("weak dependencies %v: recommended package %v", weak, got)
		}
	}
}

func TestSnapshotOfFiles(t *testing.T) {
	r := newRepository(t, standard())
	opts := r.options()
	opts.Mirror, opts.Snapshot = "", "file://"+r.path()
	text := string(mustCompose(t, blueprint(t, simple), opts))
	if !strings.Contains(text, `"url": "file://`+r.path("pool")+`/dpkg_1.21_amd64.deb"`) {
		t.Error("packages have no file URL")
	}
}

func TestSolverRoot(t *testing.T) {
	r := newRepository(t, standard())
	root := t.TempDir()
	for _, p := range []string{"apt-get", "apt-cache", "apt-config", "gpgv"} {
		r.write(filepath.Join(root, "usr/bin", p), "")
	}
	opts := r.options()
	opts.SolverRoot = root
	var roots []string
	opts.Exec = func(ctx context.Context, c Command) error {
		roots = append(roots, c.Root)
		return plainExec(ctx, c)
	}
	mustCompose(t, blueprint(t, simple), opts)
	for _, got := range roots {
		if got != root {
			t.Errorf("a command ran in root %q, not in the solver root", got)
		}
	}
	if len(roots) == 0 {
		t.Error("nothing ran")
	}
}

func TestCancel(t *testing.T) {
	r := newRepository(t, standard())
	ctx, cancel := context.WithCancel(context.Background())
	opts := r.options()
	opts.Exec = func(ctx context.Context, c Command) error {
		cancel()
		return plainExec(ctx, c)
	}
	if _, err := Manifest(ctx, blueprint(t, simple), opts); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSecondComposerWaits(t *testing.T) {
	r := newRepository(t, standard())
	opts := r.options()
	bp := blueprint(t, simple)
	var active, most int
	guard := make(chan struct{}, 1)
	opts.Exec = func(ctx context.Context, c Command) error {
		if c.Network {
			guard <- struct{}{}
			active++
			most = max(most, active)
			<-guard
			defer func() { guard <- struct{}{}; active--; <-guard }()
		}
		return plainExec(ctx, c)
	}
	results := make(chan []byte, 2)
	for range 2 {
		go func() {
			data, err := Manifest(context.Background(), bp, opts)
			if err != nil {
				t.Error(err)
			}
			results <- data
		}()
	}
	if !bytes.Equal(<-results, <-results) {
		t.Error("two composers at the same time get different manifests")
	}
	if most != 1 {
		t.Errorf("%d updates of the same directory at once", most)
	}
}

func TestProgress(t *testing.T) {
	r := newRepository(t, standard())
	opts := r.options()
	var said bytes.Buffer
	opts.Progress = io.Writer(&said)
	mustCompose(t, blueprint(t, simple), opts)
	if !strings.Contains(said.String(), "bookworm InRelease") {
		t.Errorf("progress is %q", said.String())
	}
}

func TestOutput(t *testing.T) {
	pipeline, file, err := Output("qcow2")
	if err != nil || pipeline != "qcow2" || file != "disk.qcow2" {
		t.Errorf("got %s, %s, %v", pipeline, file, err)
	}
	if _, _, err := Output("qcow3"); err == nil || !strings.Contains(err.Error(), "did you mean qcow2") {
		t.Errorf("got %v", err)
	}
}
