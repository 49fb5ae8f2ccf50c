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
	for _, name := range []string{"v1", "v2"} {
		data, err := os.ReadFile(filepath.Join("testdata/manifests", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := pipeline.Load(name+".json", data, testIndex(t))
		if err != nil {
			t.Fatal(err)
		}
		text, err := pipeline.Describe(m)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		expected, err := os.ReadFile(filepath.Join("testdata/manifests", name+".inspect"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(expected, &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
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
		{"no type", stage(`{}`), `.pipelines[0].stages[0]: "type" is missing`},
		{"unknown stage", stage(`{"type": "org.osbuild.hostnam"}`), `unknown stage "org.osbuild.hostnam"; did you mean "org.osbuild.hostname"?`},
		{"path as stage", stage(`{"type": "../runners/org.osbuild.linux"}`), `unknown stage`},
		{"unknown option", stage(`{"type": "org.osbuild.hostname", "options": {"hostname": "h", "hostnames": 1}}`),
			`.pipelines[0].stages[0].options.hostnames: "hostnames" is not allowed here; allowed: hostname, list, mode; did you mean "hostname"?`},
		{"missing option", stage(`{"type": "org.osbuild.hostname", "options": {}}`), `.pipelines[0].stages[0].options: "hostname" is missing`},
		{"wrong option", stage(`{"type": "org.osbuild.hostname", "options": {"hostname": 1}}`), `.pipelines[0].stages[0].options.hostname: must be string, not number`},
		{"enum", stage(`{"type": "org.osbuild.hostname", "options": {"hostname": "h", "mode": "c"}}`), `.options.mode: "c" is not one of "a", "b"`},
		{"lookahead", stage(`{"type": "org.osbuild.hostname", "options": {"hostname": "bad"}}`), `.options.hostname: 'bad' does not match pattern`},
		{"alternative and definition", stage(`{"type": "org.osbuild.hostname", "options": {"hostname": "h", "list": [{"deep": "x"}]}}`),
			`.options.list[0].deep: must be number, not string`},
		{"unknown build", `{"version": "2", "pipelines": [{"name": "a", "build": "name:b"}]}`, `.pipelines[0].build: unknown build pipeline "name:b"`},
		{"unknown runner", `{"version": "2", "pipelines": [{"name": "a", "runner": "org.osbuild.fedora29"}]}`, `.pipelines[0].runner: no runner "org.osbuild.fedora29"`},
		{"unknown source", `{"version": "2", "sources": {"org.osbuild.kurl": {"items": {}}}}`, `unknown source "org.osbuild.kurl"; did you mean "org.osbuild.curl"?`},
		{"bad checksum", `{"version": "2", "sources": {"org.osbuild.curl": {"items": {"sha256:0": "u"}}}}`, `"sha256:0" is not allowed here`},
		{"unknown reference", stage(`{"type": "org.osbuild.noop", "inputs": {"i": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": ["sha256:1"]}}}`),
			`"sha256:1" is in none of the manifest's sources`},
		{"unknown input pipeline", stage(`{"type": "org.osbuild.noop", "inputs": {"i": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:x"]}}}`),
			`unknown pipeline "name:x"`},
		{"itself as input", stage(`{"type": "org.osbuild.noop", "inputs": {"i": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}}}`),
			`unknown pipeline "name:tree"`},
		{"circle of devices", stage(`{"type": "org.osbuild.noop", "devices": {"a": {"type": "org.osbuild.loopback", "parent": "b"}, "b": {"type": "org.osbuild.loopback", "parent": "a"}}}`),
			`form a circle`},
		{"unknown device", stage(`{"type": "org.osbuild.noop", "mounts": [{"name": "m", "type": "org.osbuild.ext4", "source": "d", "target": "/"}]}`), `unknown device "d"`},
		{"format 1", `{"pipeline": {"stages": [{"name": "org.osbuild.hostname", "options": {}}]}}`, `.pipeline.stages[0].options: "hostname" is missing`},
		{"format 1 build", `{"pipeline": {"build": {"runner": "org.osbuild.linux", "pipeline": {"stages": [{"name": "x"}]}}}}`, `.pipeline.build.pipeline.stages[0]: unknown stage "x"`},
		{"format 1 nothing to assemble", `{"pipeline": {"assembler": {"name": "org.osbuild.noop"}}}`, `no tree to assemble`},
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
	text, jsonErr := json.Marshal(err)
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	want := `{"errors":[{"message":"\"hostname\" is missing","path":["pipelines",0,"stages",0,"options"]}],"success":false,` +
		`"title":"JSON Schema validation failed","type":"https://osbuild.org/validation-error"}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
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
		if _, err := pipeline.Describe(m); err != nil {
			t.Fatalf("%q loads but cannot be described: %v", data, err)
		}
	})
}
