package pipeline_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ossify/ossify/pipeline"
)

func testIndex(t testing.TB) *pipeline.Index {
	t.Helper()
	ix, err := pipeline.OpenIndex("testdata/libdir")
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

// TestInspect compares with what osbuild says of the same manifests.
func TestInspect(t *testing.T) {
	manifests, err := filepath.Glob("testdata/manifests/*.json")
	if err != nil || len(manifests) < 8 {
		t.Fatal(manifests, err)
	}
	for _, file := range manifests {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m, err := pipeline.Load(name+".json", data, testIndex(t))
		if err != nil {
			t.Fatal(err)
		}
		text := pipeline.Describe(m)
		expected, err := os.ReadFile(filepath.Join("testdata/manifests", name+".inspect"))
		if err != nil {
			t.Fatal(err)
		}
		if string(text)+"\n" != string(expected) {
			t.Errorf("%s:\ngot  %s\nwant %s", name, text, expected)
		}
	}
}

func TestFaults(t *testing.T) {
	stage := func(s string) string {
		return `{"version": "2", "pipelines": [{"name": "tree", "stages": [` + s + `]}]}`
	}
	for _, c := range []struct{ name, manifest, want string }{
		{"not JSON", "{\n  \"version\": }", "m.json:2:14: not JSON"},
		{"not an object", `[]`, "m.json: a manifest is a JSON object"},
		{"unknown version", `{"version": "3"}`, `m.json:1: .version: unknown manifest version "3"`},
		{"version is a number", `{"version": 2}`, `.version: unknown manifest version 2`},
		{"unknown key", `{"version": "2", "pipeline": []}`, `.pipeline: "pipeline" is not allowed here; allowed: metadata, pipelines, sources, version; did you mean "pipelines"?`},
		{"wrong type", `{"version": "2", "pipelines": {}}`, `.pipelines: must be array, not object`},
		{"no name", `{"version": "2", "pipelines": [{}]}`, `.pipelines[0]: the pipeline has no name`},
		{"same name", `{"version": "2", "pipelines": [{"name": "a"}, {"name": "a"}]}`, `.pipelines[1].name: there is another pipeline named "a"`},
		{"name of a path", `{"version": "2", "pipelines": [{"name": "../a"}]}`, `.pipelines[0].name: a pipeline cannot be named "../a"`},
		{"name with a line end", `{"version": "2", "pipelines": [{"name": "a\nb"}]}`, `.pipelines[0].name: a pipeline cannot be named "a\nb"`},
		{"no type", stage(`{}`), `.pipelines[0].stages[0]: "type" is missing`},
		{"unknown stage", stage(`{"type": "org.osbuild.hostnam"}`), `unknown stage "org.osbuild.hostnam"; did you mean "org.osbuild.hostname"?`},
		{"path as stage", stage(`{"type": "../runners/org.osbuild.linux"}`), `unknown stage`},
		{"unknown option", stage(`{"type": "org.osbuild.hostname", "options": {"hostname": "h", "hostnames": 1}}`),
			`.pipelines[0].stages[0].options.hostnames: "hostnames" is not allowed here; allowed: hostname, list, mode; did you mean "hostname"?`},
		{"missing option", stage(`{"type": "org.osbuild.hostname", "options": {}}`), `.pipelines[0].stages[0].options: "hostname" is missing`},
		{"wrong option", stage(`{"type": "org.osbuild.hostname", "options": {"hostname": 1}}`), `.pipelines[0].stages[0].options.hostname: must be string, not number`},
		{"enum", stage(`{"type": "org.osbuild.hostname", "options": {"hostname": "h", "mode": "c"}}`), `.options.mode: "c" is not one of "a", "b"`},
		{"lookahead", stage(`{"type": "org.osbuild.hostname", "options": {"hostname": "bad"}}`), `.options.hostname: "bad" does not match the pattern ^(?!bad)`},
		{"alternative and definition", stage(`{"type": "org.osbuild.hostname", "options": {"hostname": "h", "list": [{"deep": "x"}]}}`),
			`.options.list[0].deep: must be number, not string`},
		{"unknown build", `{"version": "2", "pipelines": [{"name": "a", "build": "name:b"}]}`, `.pipelines[0].build: unknown build pipeline "name:b"`},
		{"unknown runner", `{"version": "2", "pipelines": [{"name": "a", "runner": "org.osbuild.fedora29"}]}`, `.pipelines[0].runner: unknown runner "org.osbuild.fedora29": there is no org.osbuild.fedora of that version or an older one; known: org.osbuild.fedora30, org`},
		{"unknown source", `{"version": "2", "sources": {"org.osbuild.kurl": {"items": {}}}}`, `unknown source "org.osbuild.kurl"; did you mean "org.osbuild.curl"?`},
		{"bad checksum", `{"version": "2", "sources": {"org.osbuild.curl": {"items": {"sha256:0": "u"}}}}`, `"sha256:0" is not allowed here`},
		{"osbuild's source", `{"version": "2", "sources": {"org.osbuild.elsewhere": {"items": {}}}}`, `add --libdir /usr/lib/osbuild`},
		{"osbuild's input", stage(`{"type": "org.osbuild.noop", "inputs": {"i": {"type": "org.osbuild.ostree.checkout", "origin": "org.osbuild.source", "references": ["0"]}}}`),
			`add --libdir /usr/lib/osbuild`},
		{"unknown reference", stage(`{"type": "org.osbuild.noop", "inputs": {"i": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": ["sha256:1"]}}}`),
			`"sha256:1" is in none of the manifest's sources`},
		{"unknown input pipeline", stage(`{"type": "org.osbuild.noop", "inputs": {"i": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:x"]}}}`),
			`unknown pipeline "name:x"`},
		{"circle of devices", stage(`{"type": "org.osbuild.noop", "devices": {"a": {"type": "org.osbuild.loopback", "parent": "b"}, "b": {"type": "org.osbuild.loopback", "parent": "a"}}}`),
			`.devices.a.parent: the device "a" is below itself, or below a device that is`},
		{"unknown device", stage(`{"type": "org.osbuild.noop", "mounts": [{"name": "m", "type": "org.osbuild.ext4", "source": "d", "target": "/"}]}`), `unknown device "d"`},
		{"format 1", `{"pipeline": {"stages": [{"name": "org.osbuild.hostname", "options": {}}]}}`, `.pipeline.stages[0].options: "hostname" is missing`},
		{"format 1 build", `{"pipeline": {"build": {"runner": "org.osbuild.linux", "pipeline": {"stages": [{"name": "x"}]}}}}`, `.pipeline.build.pipeline.stages[0]: unknown stage "x"`},
		{"format 1 assembler of a build", `{"pipeline": {"build": {"runner": "org.osbuild.linux", "pipeline": {"assembler": {"name": "org.osbuild.old", "options": {}}}}}}`, `.pipeline.build.pipeline.assembler.options: "filename" is missing`},
		{"format 1 unknown source", `{"sources": {"org.osbuild.inline": {}}}`, `.sources.org.osbuild.inline: manifests of version 1 have no source`},
		{"schema in the module", `{"pipeline": {"stages": [{"name": "org.osbuild.noop"}], "assembler": {"name": "org.osbuild.old", "options": {"filename": "a b"}}}}`, `.assembler.options.filename: "a b" does not match the pattern ^[^\s]+$`},
		{"build without name:", `{"version": "2", "pipelines": [{"name": "b"}, {"name": "t", "build": "b"}]}`, `.pipelines[1].build: no pipeline has the id "b"; did you mean "name:b"?`},
		{"id as name", `{"version": "2", "pipelines": [{"name": "b", "stages": [{"type": "org.osbuild.noop"}]}, {"name": "t", "build": "name:beda46704765a47e6d4f44aff22168ae36866c9c0e6e11552b775b77776b2969"}]}`, `.pipelines[1].build: unknown build pipeline "name:beda`},
		{"float for integer", `{"version": "2", "pipelines": [{"name": "t", "source-epoch": 7.0}]}`, `.source-epoch: must be integer, not number`},
		{"number too large", stage(`{"type": "org.osbuild.noop", "options": {"a": [1, -1e999999999]}}`), `.options.a[1]: the number -1e999999999 is too large`},
		{"no form fits", stage(`{"type": "org.osbuild.rules", "options": {"any": "x"}}`), `.options.any: fits none of the allowed forms: must have at least 2 characters, not 1; or must be integer, not string`},
		{"two forms fit", stage(`{"type": "org.osbuild.rules", "options": {"one": 1}}`), `.options.one: fits more than one of the forms`},
	} {
		_, err := pipeline.Load("m.json", []byte(c.manifest), testIndex(t))
		var invalid *pipeline.ValidationError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, err, c.want)
		}
	}
}

// TestFaultsAsJSON sees that --json gives osbuild's form.
func TestFaultsAsJSON(t *testing.T) {
	_, err := pipeline.Load("m.json", []byte(`{"version": "2", "pipelines": [{"name": "t", "stages": [{"type": "org.osbuild.hostname", "options": {}}]}]}`), testIndex(t))
	var invalid *pipeline.ValidationError
	if !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	text := invalid.JSON()
	want := `{"type": "https://osbuild.org/validation-error", "title": "JSON Schema validation failed", "success": false, ` +
		`"errors": [{"message": "'hostname' is a required property", "path": ["pipelines", 0, "stages", 0, "options"]}]}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

// TestOsbuildsWords compares messages with those that osbuild printed, with
// Python's jsonschema 4.26.
func TestOsbuildsWords(t *testing.T) {
	for _, c := range []struct{ options, path, want string }{
		{`{"uid": "x"}`, "uid", `'x' is not of type 'integer'`},
		{`{"uid": 1.0}`, "uid", `1.0 is not of type 'integer'`},
		{`{"uid": true}`, "uid", `True is not of type 'integer'`},
		{`{"uid": -1}`, "uid", `-1 is less than the minimum of 0`},
		{`{"uid": 10}`, "uid", `10 is greater than the maximum of 9`},
		{`{"any": null}`, "any", `None is not valid under any of the given schemas`},
		{`{"any": {"it's": ["\u0000\u00e9", 1e5]}}`, "any", `{"it's": ['\x00é', 100000.0]} is not valid under any of the given schemas`},
		{`{"one": 1}`, "one", `1 is valid under each of {'type': 'number'}, {'type': 'integer'}`},
		{`{"word": "A"}`, "word", `'A' does not match '^[a-z\\_]+$'`},
		{`{"list": [1]}`, "list", `[1] is too short`},
		{`{"list": [1, 2, 3, 4]}`, "list", `[1, 2, 3, 4] is too long`},
		{`{"list": [1, 1]}`, "list", `[1, 1] has non-unique elements`},
		{`{"keys": {"b": 1, "a": 1, "k": 1}}`, "keys", `'a', 'b' do not match any of the regexes: '^k'`},
		{`{"no": null}`, "no", `None should not be valid under {'enum': ['x', None]}`},
		{`{"pair": {"a": 1}}`, "pair", `'b' is a dependency of 'a'`},
		{`{"types": 1}`, "types", `1 is not of type 'string', 'null'`},
		{`{"tuple": [1, 2, 3]}`, "tuple", `Additional items are not allowed (2, 3 were unexpected)`},
		{`{"y y": 1, "x": 2}`, "", `Additional properties are not allowed ('x', 'y y' were unexpected)`},
	} {
		text := `{"version": "2", "pipelines": [{"name": "t", "stages": [{"type": "org.osbuild.rules", "options": ` + c.options + `}]}]}`
		_, err := pipeline.Load("m.json", []byte(text), testIndex(t))
		var invalid *pipeline.ValidationError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: %v", c.options, err)
			continue
		}
		data := invalid.JSON()
		var got struct {
			Errors []struct {
				Message string
				Path    []any
			}
		}
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		path := []any{"pipelines", 0.0, "stages", 0.0, "options"}
		if c.path != "" {
			path = append(path, c.path)
		}
		if len(got.Errors) != 1 || got.Errors[0].Message != c.want || !reflect.DeepEqual(got.Errors[0].Path, path) {
			t.Errorf("%s:\ngot  %s\nwant %s at %v", c.options, data, c.want, path)
		}
	}
}

// TestPatterns sees that patterns mean what they mean in Python: $ matches
// before a last newline, formats are not checked.
func TestPatterns(t *testing.T) {
	for word, ok := range map[string]bool{"a_b": true, `a\n`: true, `a\n\n`: false, "a b": false} {
		text := `{"version": "2", "pipelines": [{"name": "t", "stages": [{"type": "org.osbuild.rules", "options": {"word": "` + word + `"}}]}]}`
		if _, err := pipeline.Load("m.json", []byte(text), testIndex(t)); (err == nil) != ok {
			t.Errorf("%q: %v", word, err)
		}
	}
}

// TestMetaInModule reads a description that is part of the program.
func TestMetaInModule(t *testing.T) {
	m, err := testIndex(t).Module("Assembler", "org.osbuild.old")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"CAP_MKNOD", "CAP_SYS_ADMIN"}; m.Meta.Summary != "Archive a tree" || !reflect.DeepEqual(m.Meta.Capabilities, want) {
		t.Errorf("got %+v", m.Meta)
	}
}

func TestRunners(t *testing.T) {
	ix := testIndex(t)
	for name, want := range map[string]string{
		"org.osbuild.fedora30": "org.osbuild.fedora30",
		"org.osbuild.fedora37": "org.osbuild.fedora30",
		"org.osbuild.fedora99": "org.osbuild.fedora38",
		"org.osbuild.linux":    "org.osbuild.linux",
		"org.osbuild.linux7":   "org.osbuild.linux",
		"org.osbuild.fedora29": "",
		"org.osbuild.beos":     "",
	} {
		r, err := ix.Runner(name)
		if want == "" {
			if err == nil {
				t.Errorf("%s: got %s", name, r.Path)
			}
			continue
		}
		if err != nil || filepath.Base(r.Path) != want || r.Name != name {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
	if r, _ := ix.Runner("org.osbuild.linux"); r.Meta.Setup != "once" {
		t.Errorf("meta of the runner is %+v", r.Meta)
	}
}

// TestFirstLibdirWins puts a second libdir before the first.
func TestFirstLibdirWins(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "stages"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"org.osbuild.noop":           "#!/bin/sh\n",
		"org.osbuild.noop.meta.json": `{"summary": "mine", "description": [], "schema_2": {"options": {}}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "stages", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ix, err := pipeline.OpenIndex(dir, "testdata/libdir")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := ix.Module("Stage", "org.osbuild.noop"); err != nil || m.Meta.Summary != "mine" {
		t.Errorf("got %+v, %v", m, err)
	}
	if m, err := ix.Module("Stage", "org.osbuild.hostname"); err != nil || m.Libdir == dir {
		t.Errorf("got %+v, %v", m, err)
	}
}

func FuzzLoad(f *testing.F) {
	for _, name := range []string{"v1", "v2"} {
		data, err := os.ReadFile(filepath.Join("testdata/manifests", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"version": "2", "pipelines": [{"name": 7, "stages": [{"type": "org.osbuild.noop", "mounts": [{}]}]}]}`))
	ix := testIndex(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := pipeline.Load("m.json", data, ix)
		if err != nil {
			return
		}
		pipeline.Describe(m)
	})
}
