package compose

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The stages of the manifests take the options that are given to them.
func TestOptionsFollowSchemas(t *testing.T) {
	for _, golden := range []string{"full.qcow2.json", "full.raw.json", "full.tar.json"} {
		data, err := os.ReadFile("testdata/" + golden)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range decode(t, data).Pipelines {
			for _, s := range p.Stages {
				if err := validate(t, s.Type, s.Options); err != nil {
					t.Errorf("%s: %s: %s: %v", golden, p.Name, s.Type, err)
				}
			}
		}
	}
}

func validate(t *testing.T, name string, options json.RawMessage) error {
	t.Helper()
	path := "../stages/" + name + ".meta.json"
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var meta struct {
		Schema  json.RawMessage `json:"schema"`
		Schema2 *struct {
			Definitions json.RawMessage `json:"definitions"`
			Options     json.RawMessage `json:"options"`
		} `json:"schema_2"`
	}
	if err := json.Unmarshal(data, &meta); err != nil {
		return err
	}
	text := string(meta.Schema)
	if meta.Schema2 != nil {
		text = string(meta.Schema2.Options)
		if len(meta.Schema2.Definitions) > 0 {
			text = strings.Replace(text, "{", `{"definitions":`+string(meta.Schema2.Definitions)+",", 1)
		}
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft4)
	if err := c.AddResource(name, doc); err != nil {
		return err
	}
	schema, err := c.Compile(name)
	if err != nil {
		return err
	}
	if len(options) == 0 {
		options = json.RawMessage("{}")
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(options)))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}
