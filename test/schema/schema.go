// Package schema tries the schemas of native modules.
package schema

import (
	"embed"
	"strings"
	"testing"

	"github.com/ossify/ossify/module"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Check sees that the metadata of every module of a family is complete, and that
// its schema accepts and refuses what it is to, of which there must be some.
func Check(t *testing.T, family []module.Module, files embed.FS, accepted, refused map[string][]string) {
	t.Helper()
	for _, m := range family {
		s := compile(t, files, m.Name)
		if len(accepted[m.Name]) == 0 || len(refused[m.Name]) == 0 {
			t.Errorf("%s: no cases", m.Name)
		}
		for want, texts := range map[bool][]string{true: accepted[m.Name], false: refused[m.Name]} {
			for _, text := range texts {
				v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
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
	if err := c.AddResource("mem:///"+name, meta["schema"]); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("mem:///" + name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}
