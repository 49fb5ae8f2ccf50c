package pipeline

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ossify/ossify/pyjson"
)

// TestRunner looks for runners in a libdir without descriptions before one with.
func TestRunner(t *testing.T) {
	osbuild, native := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(osbuild, "runners/org.osbuild.fedora30"):           "",
		filepath.Join(osbuild, "runners/org.osbuild.fedora38"):           "",
		filepath.Join(osbuild, "runners/org.example.own"):                "",
		filepath.Join(native, "runners/org.osbuild.fedora38"):            "",
		filepath.Join(native, "runners/org.osbuild.fedora38.meta.json"):  `{"setup": "once"}`,
		filepath.Join(native, "runners/org.osbuild.debian"):              "",
		filepath.Join(native, "runners/org.osbuild.debian.meta.json"):    `{"setup": "once"}`,
		filepath.Join(native, "runners/org.osbuild.unclear12"):           "",
		filepath.Join(native, "runners/org.osbuild.unclear12.meta.json"): `{`,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ix, err := OpenIndex(osbuild, native)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, setup string }{
		{"org.osbuild.fedora41", filepath.Join(osbuild, "runners/org.osbuild.fedora38"), "once"},
		{"org.osbuild.fedora36", filepath.Join(osbuild, "runners/org.osbuild.fedora30"), "once"},
		{"org.osbuild.fedora29", "", ""},
		{"org.osbuild.debian12", filepath.Join(native, "runners/org.osbuild.debian"), "once"},
		{"org.example.own", filepath.Join(osbuild, "runners/org.example.own"), ""},
		{"org.osbuild.unclear12", "", ""},
	} {
		r, err := ix.Runner(c.name)
		if (err == nil) != (c.path != "") || err == nil && (r.Path != c.path || r.Meta.Setup != c.setup) {
			t.Errorf("%s: %+v, %v", c.name, r, err)
		}
	}
}

// FuzzModule reads foreign descriptions and programs, and checks with their schemas.
func FuzzModule(f *testing.F) {
	for _, text := range []string{
		`{"summary": "s", "capabilities": ["CAP_SYS_ADMIN"], "schema_2": {"options": {"required": ["a"]}}}`,
		`{"schema": {"properties": {"a": {"$ref": "#/definitions/a"}}, "definitions": {"a": {"$ref": "#/definitions/a"}}}}`,
		`{"schema_2": {"options": {"$ref": "#"}}}`, `{"schema_2": {"options": {"id": "::", "$ref": "x"}}}`, `{"schema_2": {"options": {"$schema": "file:///etc/passwd"}}}`,
		`{"schema_2": {"options": {"patternProperties": {"(?P<a>\\Z)": {"format": "x", "type": ["integer", 7]}}}}}`, `{"schema": []}`, `[]`, `null`,
		"#!/usr/bin/python3\n\"\"\"Doc\"\"\"\nSCHEMA = \"\"\"\n\"required\": [\"a\"]\n\"\"\"\nCAPABILITIES = ['CAP_X', # y\n'Z']\n", "#!python\nSCHEMA_2 = ('a' \\",
	} {
		f.Add(text)
	}
	value, err := pyjson.Decode([]byte(`{"type": "org.test.x", "name": "org.test.x", "options": {"a": [1, 1.5, "x", null, {"a": {}}]}}`), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		meta, err := decodeMeta("org.test.x", []byte(text))
		if err != nil {
			if meta, err = pythonMeta(text); err != nil {
				return
			}
		}
		for _, class := range []string{"Stage", "Assembler", "Source", "Input", "Device", "Mount"} {
			m := &Module{Class: class, Name: "org.test.x", Path: "/org.test.x", Meta: meta}
			for _, version := range []string{"1", "2"} {
				c := &checker{ix: &Index{schemas: map[[3]string]*schema{}}, name: "m.json"}
				s, err := c.ix.moduleSchema(m, version)
				if err != nil {
					continue
				}
				c.check(s, value, nil, nil)
				for _, fault := range c.faults {
					if fault.Message == "" {
						t.Errorf("%s: a fault without a message at %s", class, fault.ID())
					}
				}
			}
		}
	})
}
