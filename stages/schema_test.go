package stages

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/dlclark/regexp2"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// meta is what the tests need of a NAME.meta.json.
type meta struct {
	Summary     string         `json:"summary"`
	Description []string       `json:"description"`
	Schema      map[string]any `json:"schema"`
	Schema2     map[string]any `json:"schema_2"`
}

func readMeta(stage string) (*meta, error) {
	data, err := Schemas.ReadFile(stage + ".meta.json")
	if err != nil {
		return nil, err
	}
	var m meta
	return &m, json.Unmarshal(data, &m)
}

// stageSchema is the schema of a whole stage of a manifest, made of its parts
// as osbuild/meta.py does.
func (m *meta) stageSchema(stage, version string) (*jsonschema.Schema, error) {
	key, parts := "name", map[string]any{"options": m.Schema}
	if version == "2" {
		key = "type"
		if m.Schema2 != nil {
			parts = m.Schema2
		}
	}
	properties := map[string]any{
		key:       map[string]any{"enum": []any{stage}},
		"mounts":  map[string]any{"type": "array"},
		"devices": map[string]any{"type": "object"},
	}
	for name, part := range parts {
		properties[name] = part
	}
	schema := map[string]any{
		"type": "object", "additionalProperties": false,
		"required": []any{key}, "properties": properties,
	}
	// References are written as if the options were the root.
	if options, ok := parts["options"].(map[string]any); ok && options["definitions"] != nil {
		schema["definitions"] = options["definitions"]
	}

	// Or as if all parts together were.
	if definitions, ok := parts["definitions"]; ok {
		schema["definitions"] = definitions
		delete(properties, "definitions")
	}
	// Through JSON, so that numbers are what the compiler expects.
	data, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft4)
	compiler.UseRegexpEngine(compilePattern)
	url := "mem:///" + stage
	if err := compiler.AddResource(url, doc); err != nil {
		return nil, err
	}
	return compiler.Compile(url)
}

// schemaPattern is a regular expression as the engine has them: osbuild's look
// ahead, which Go's own cannot.
type schemaPattern struct{ *regexp2.Regexp }

func compilePattern(text string) (jsonschema.Regexp, error) {
	re, err := regexp2.Compile(text, regexp2.None)
	return schemaPattern{re}, err
}

func (p schemaPattern) MatchString(text string) bool {
	ok, err := p.Regexp.MatchString(text)
	return err == nil && ok
}

// checkSchema validates the case's stage as format 2 does and, where the
// schema has one, as format 1 does; it returns the options. The error wraps a
// *jsonschema.ValidationError if the stage is refused.
func checkSchema(stage string, where *trees, c *caseFile) (json.RawMessage, error) {
	m, err := readMeta(stage)
	if err != nil {
		return nil, err
	}
	object1, object2, err := stageObjects(stage, m, where, c)
	if err != nil {
		return nil, err
	}
	if err := m.validate(stage, "2", object2); err != nil {
		return nil, err
	}
	if object1 != nil {
		if err := m.validate(stage, "1", object1); err != nil {
			return nil, err
		}
	}
	return json.Marshal(object2["options"])
}

// stageObjects returns the case's stage as it stands in a manifest of format 1,
// nil if that does not know it, and of format 2.
func stageObjects(stage string, m *meta, where *trees, c *caseFile) (object1, object2 map[string]any, err error) {
	options := json.RawMessage("{}")
	if text, ok := c.get("options.json"); ok {
		options = where.fill([]byte(text))
	}
	object2 = map[string]any{"type": stage, "options": options}
	if text, ok := c.get("stage.json"); ok {
		if err := json.Unmarshal([]byte(text), &object2); err != nil {
			return nil, nil, fmt.Errorf("stage.json: %w", err)
		}
		return nil, object2, nil
	}
	args, err := where.arguments(c, options)
	if err != nil {
		return nil, nil, fmt.Errorf("arguments: %w", err)
	}
	inputs := map[string]any{}
	for name := range args["inputs"].(map[string]map[string]any) {
		inputs[name] = map[string]string{"type": "org.osbuild.files", "origin": "org.osbuild.source"}
	}
	if len(inputs) > 0 {
		object2["inputs"] = inputs
	}
	devices := map[string]any{}
	for name := range args["devices"].(map[string]json.RawMessage) {
		devices[name] = map[string]any{"type": "org.osbuild.loopback", "options": map[string]string{"filename": "disk.img"}}
	}
	if len(devices) > 0 {
		object2["devices"] = devices
	}
	if m.Schema != nil {
		object1 = map[string]any{"name": stage, "options": options}
	}
	return object1, object2, nil
}

func (m *meta) validate(stage, version string, object map[string]any) error {
	schema, err := m.stageSchema(stage, version)
	if err != nil {
		return err
	}
	data, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("options.json: %w", err)
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return schema.Validate(instance)
}

// TestSchemas compiles every schema for the formats that it says it has, and
// wants words for people in each.
func TestSchemas(t *testing.T) {
	for _, stage := range All {
		m, err := readMeta(stage.Name)
		if err != nil {
			t.Errorf("%s: %v", stage.Name, err)
			continue
		}
		if m.Summary == "" || len(m.Description) == 0 {
			t.Errorf("%s: summary or description is missing", stage.Name)
		}
		if m.Schema == nil && m.Schema2 == nil {
			t.Errorf("%s: there is neither schema nor schema_2", stage.Name)
		}
		_, err = m.stageSchema(stage.Name, "2")
		if m.Schema != nil {
			_, err1 := m.stageSchema(stage.Name, "1")
			err = errors.Join(err, err1)
		}
		if err != nil {
			t.Errorf("%s: %v", stage.Name, err)
		}
	}
}
