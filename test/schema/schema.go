// Package schema tries the schemas of native modules.
package schema

import (
	"bytes"
	"embed"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/ossify/ossify/module"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// cases are the file testdata/NAME/schema.json of a family's folder.
type cases struct {
	// Accepted and Refused are what the module's schema accepts and refuses.
	Accepted []json.RawMessage `json:"accepted"`
	Refused  []json.RawMessage `json:"refused"`
}

// Check sees that the metadata of every module of a family is complete, and that
// its schema accepts and refuses what testdata/NAME/schema.json says, of which
// there must be some.
func Check(t *testing.T, family []module.Module, files embed.FS) {
	t.Helper()
	for _, m := range family {
		s := compile(t, files, m.Name)
		data, err := os.ReadFile(filepath.Join("testdata", m.Name, "schema.json"))
		if err != nil {
			t.Fatal(err)
		}
		var c cases
		if err := json.Unmarshal(data, &c); err != nil {
			t.Fatalf("%s: %v", m.Name, err)
		}
		if len(c.Accepted) == 0 || len(c.Refused) == 0 {
			t.Errorf("%s: testdata has no accepted or no refused cases", m.Name)
		}
		for want, texts := range map[bool][]json.RawMessage{true: c.Accepted, false: c.Refused} {
			for _, text := range texts {
				v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Validate(v); (err == nil) != want {
					t.Errorf("%s: %s: got %v, accepted should be %v", m.Name, text, err, want)
				}
			}
		}
	}
}

func compile(t *testing.T, files embed.FS, name string) *jsonschema.Schema {
	t.Helper()
	f, err := files.Open(name + ".meta.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	doc, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	meta, ok := doc.(map[string]any)
	if !ok || meta["summary"] == "" || meta["description"] == nil {
		t.Fatalf("%s: no summary or description: %v", name, doc)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft4)
	schema := meta["schema"]
	if schema == nil {
		schema = meta["schema_2"]
	}
	if err := c.AddResource("mem:///"+name, schema); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("mem:///" + name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}
