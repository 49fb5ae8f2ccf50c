package stages

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ossify/ossify/module"
)

// TestExitCode wants the status that a stage asks for, or that its program
// ended with, to be found in its error.
func TestExitCode(t *testing.T) {
	tests := []struct {
		stage, options string
		want           int
	}{
		{"org.osbuild.error", `{}`, 255},
		{"org.osbuild.error", `{"returncode": 3}`, 3},
		{"org.osbuild.error", `{"returncode": -1}`, 255},
		{"org.osbuild.error", `{"returncode": 99999999999999999999}`, 255},
		{"org.osbuild.error", `{"returncode": 2.5}`, 1},
		{"org.osbuild.script", `{"script": "exit 9"}`, 9},
	}
	for _, test := range tests {
		tree := t.TempDir()
		if err := copyTool(tree, "sh"); err != nil {
			t.Fatal(err)
		}
		stage, _ := module.Find(All, test.stage)
		err := runStage(stage, map[string]any{"tree": tree, "options": json.RawMessage(test.options)})
		var status interface{ ExitCode() int }
		if !errors.As(err, &status) || status.ExitCode() != test.want {
			t.Errorf("%s %s: error %v, want one with exit code %d", test.stage, test.options, err, test.want)
		}
	}
}

// TestTarReproducible packs one tree twice, made in different orders at
// different times, and wants the same bytes.
func TestTarReproducible(t *testing.T) {
	names := []string{"zebra", "etc/b", "etc/a", "ant"}
	pack := func(names []string, options string) []byte {
		source, tree := t.TempDir(), t.TempDir()
		for _, name := range names {
			line := treeLine{kind: "file", mode: 0o644, content: `"x"`, attrs: []string{`user.note="x"`}}
			if err := line.place(filepath.Join(source, name), ""); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"zebra", "etc/b", "etc/a", "ant", "etc", "."} {
			if err := (treeLine{mtime: 1}).setTime(filepath.Join(source, name)); err != nil {
				t.Fatal(err)
			}
		}
		// So that the times of access differ.
		if _, err := os.ReadFile(filepath.Join(source, names[0])); err != nil {
			t.Fatal(err)
		}
		stage, _ := module.Find(All, "org.osbuild.tar")
		err := runStage(stage, map[string]any{"tree": tree, "options": json.RawMessage(options),
			"inputs": map[string]any{"tree": map[string]any{"path": source}}})
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(tree, "out.tar"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, options := range []string{
		`{"filename": "out.tar"}`,
		`{"filename": "out.tar", "root-node": "omit", "compression": "xz"}`,
		`{"filename": "out.tar", "format": "posix", "acls": false, "selinux": false, "xattrs": false}`,
	} {
		first := pack(names, options)
		second := pack([]string{"ant", "etc/a", "etc/b", "zebra"}, options)
		if !bytes.Equal(first, second) {
			t.Errorf("%s: two archives of one tree differ", options)
		}
	}
}

func TestOrdered(t *testing.T) {
	var got ordered[int]
	if err := json.Unmarshal([]byte(`{"b": 1, "a": 2, "b": 3}`), &got); err != nil {
		t.Fatal(err)
	}
	want := ordered[int]{{"b", 3}, {"a", 2}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, text := range []string{`[]`, `null`, `"a"`, `{"a": "x"}`} {
		if err := json.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

func FuzzOrdered(f *testing.F) {
	f.Add([]byte(`{"b": {"x": 1}, "a": []}`))
	f.Add([]byte(`{"a": 1, "a": 2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got ordered[any]
		var want map[string]any
		gotErr, wantErr := json.Unmarshal(data, &got), json.Unmarshal(data, &want)
		if wantErr != nil && gotErr == nil {
			t.Fatalf("accepted what is no object: %q", data)
		}
		if wantErr == nil && want != nil && (gotErr != nil || len(got) != len(want)) {
			t.Fatalf("%q: got %v (%v), want %v", data, got, gotErr, want)
		}
	})
}

// FuzzOptions decodes options of stages that read JSON in ways of their own: what was taken is
// taken again.
func FuzzOptions(f *testing.F) {
	for _, text := range []string{
		`"root"`, `0`, `-1`, `1.5`, `1e3`, `true`, `false`, `null`, `[]`, `{}`, `[["ENV", "x", "y"]]`, `{"Unit": {"After": ["a", "b"], "Description": "x"}}`,
		`{"comment": ["x"]}`, `[{"key": "SUBSYSTEM", "op": "==", "val": "x"}]`, `{"key": {"name": "ATTR", "arg": "x"}, "op": "=", "val": 7}`, `{"a": {"a": {}}, "a": 1}`, `"\ud800"`,
	} {
		f.Add([]byte(text))
	}
	paths, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no cases: %v", err)
	}
	for i := 0; i < len(paths); i += 10 {
		if c, err := readCase(paths[i]); err == nil {
			if options, ok := c.get("options.json"); ok {
				f.Add([]byte(options))
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, decode := range []func() (any, error){
			decodes[owner](data), decodes[grubPlatform](data), decodes[ordered[json.RawMessage]](data), decodes[ordered[ordered[string]]](data), decodes[unitConfig](data),
			decodes[udevRule](data), decodes[udevKey](data), decodes[mkdirOptions](data), decodes[copyOptions](data), decodes[untarOptions](data), decodes[zipOptions](data),
		} {
			first, err := decode()
			second, again := decode()
			if (err == nil) != (again == nil) || err == nil && !reflect.DeepEqual(first, second) {
				t.Errorf("%q: %v (%v), then %v (%v)", data, first, err, second, again)
			}
			if err == nil && !json.Valid(data) {
				t.Errorf("%q is taken for JSON", data)
			}
		}
	})
}

func decodes[O any](data []byte) func() (any, error) {
	return func() (any, error) {
		var o O
		err := json.Unmarshal(data, &o)
		return o, err
	}
}

func TestParseLocation(t *testing.T) {
	args := &module.Args{Tree: "/t",
		Inputs: map[string]module.Input{"in": {Path: "/i"}},
		Mounts: map[string]module.Mount{"root": {Path: "/m/."}}}
	args.Paths.Mounts = "/m"
	tests := []struct{ text, want, err string }{
		{"/a/b", "/t/a/b", ""},
		{"tree:///a//b/", "/t/a/b/.", ""},
		{"TREE:///a", "/t/a", ""},
		{"tree:///", "/t/.", ""},
		{"input://in/a/../../b", "/i/b", ""},
		{"mount://root/", "/m/.", ""},
		{"mount:///root/a", "/m/root/a", ""},
		{"file", "", "has no path"},
		{"input://in", "", "has no path"},
		{"input:///a", "", `no input ""`},
		{"mount://x/a", "", `no mount "x"`},
		{"tree://x/a", "", "without a name"},
		{"ftp://x/a", "", `unknown scheme "ftp"`},
		{"tree:///a?b", "", "no meaning"},
	}
	for _, test := range tests {
		place, err := parseLocation(args, test.text)
		got := ""
		if err == nil {
			got, err = place.entry()
		}
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got %q, error %v; want %q, error with %q", test.text, got, err, test.want, test.err)
		}
	}
}

// FuzzLocation wants every location to stay below its root, over links too.
func FuzzLocation(f *testing.F) {
	tree := f.TempDir()
	for name, target := range map[string]string{"up": "../..", "abs": "/etc", "self": "self"} {
		if err := os.Symlink(target, filepath.Join(tree, name)); err != nil {
			f.Fatal(err)
		}
	}
	for _, text := range []string{"/a", "tree:///up/x/", "tree:///abs/passwd", "tree:///../../x", "tree:///self/x", "mount://m/a"} {
		f.Add(text)
	}
	args := &module.Args{Tree: tree}
	f.Fuzz(func(t *testing.T, text string) {
		place, err := parseLocation(args, text)
		if err != nil {
			return
		}
		for _, resolve := range []func() (string, error){place.entry, place.target} {
			path, err := resolve()
			if err == nil && path != tree && !strings.HasPrefix(path, tree+"/") {
				t.Fatalf("%q leads to %s", text, path)
			}
		}
	})
}

// FuzzNames wants the checks of names to accept nothing that could be another
// line or another path.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"a.b.", "en_US.UTF-8", "Europe/Berlin", "../x", "a\nb"} {
		f.Add(name)
	}
	args := &module.Args{Tree: f.TempDir()}
	f.Fuzz(func(t *testing.T, name string) {
		if checkHostname(name) == nil && strings.ContainsAny(name, "/\n\x00 _") {
			t.Errorf("hostname %q accepted", name)
		}
		if checkFirstbootName("locale", "en_US.UTF-8", name) == nil && strings.ContainsAny(quoteEnv(name), "/\n\x00'") {
			t.Errorf("locale %q accepted", name)
		}
		if checkTimezone(args, name) == nil && (strings.HasPrefix(name, "/") || strings.Contains(name, "..")) {
			t.Errorf("timezone %q accepted", name)
		}
	})
}
