package pipeline

import (
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ossify/ossify/pyjson"
)

//go:embed schemas/*.json
var manifestSchemas embed.FS

// manifestSchema is the schema of a whole manifest of a version.
func (ix *Index) manifestSchema(version string) (*schema, error) {
	return ix.cached("Manifest", "", version, func() (*pyjson.Object, error) {
		data, err := manifestSchemas.ReadFile("schemas/manifest" + version + ".json")
		if err != nil {
			return nil, err
		}
		return object(data)
	})
}

func (ix *Index) cached(class, name, version string, doc func() (*pyjson.Object, error)) (*schema, error) {
	key := [3]string{class, name, version}
	if s := ix.schemas[key]; s != nil {
		return s, nil
	}
	d, err := doc()
	if err != nil {
		return nil, err
	}
	s, err := newSchema(d)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", cmp.Or(name, "manifests of version "+version), err)
	}
	ix.schemas[key] = s
	return s, nil
}

// noSchema says that a module is not for manifests of a version.
type noSchema string

func (e noSchema) Error() string { return string(e) }

// moduleSchema is the schema of a module's use in a manifest of a version: the
// module's own part, wrapped as osbuild does (osbuild/meta.py, get_schema).
func (ix *Index) moduleSchema(m *Module, version string) (*schema, error) {
	s, err := ix.cached(m.Class, m.Name, version, func() (*pyjson.Object, error) {
		v1, err := object(m.Meta.Schema)
		if err != nil {
			return nil, fmt.Errorf("schema: %w", err)
		}
		v2, err := object(m.Meta.Schema2)
		if err != nil {
			return nil, fmt.Errorf("schema_2: %w", err)
		}
		return wrap(m, version, v1, v2)
	})
	if errors.As(err, new(noSchema)) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("the module %s does not describe itself well: %w", m.Path, err)
	}
	return s, nil
}

// wrap makes the schema of a module's use in a manifest of the module's own
// schemas, which are copied where they are changed.
func wrap(m *Module, version string, v1, v2 *pyjson.Object) (*pyjson.Object, error) {
	out, props := pyjson.NewObject(), pyjson.NewObject()
	out.Set("type", "object")
	out.Set("additionalProperties", false)
	named := pyjson.NewObject()
	named.Set("enum", []any{m.Name})
	own := v1
	if version == "2" && len(v2.Keys) > 0 {
		own = v2
	}
	switch m.Class {
	case "Stage", "Assembler":
		id := "name"
		if version == "2" {
			id = "type"
		}
		props.Set(id, named)
		if version == "2" && len(v2.Keys) > 0 {
			merge(props, v2)
		} else {
			props.Set("options", v1)
		}
		for _, group := range [][2]string{{"mounts", "array"}, {"devices", "object"}} {
			if _, ok := props.Values[group[0]]; !ok {
				free := pyjson.NewObject()
				free.Set("type", group[1])
				props.Set(group[0], free)
			}
		}
		out.Set("properties", props)
		out.Set("required", []any{id})
		return hoistDefinitions(out), nil
	case "Mount":
		own = v2 // format 1 has no mounts
	}
	if len(own.Keys) == 0 {
		return nil, noSchema(fmt.Sprintf("%s has no schema for manifests of version %s", m.Name, version))
	}
	switch m.Class {
	case "Device":
		out.Set("additionalProperties", true)
		props.Set("type", named)
		props.Set("options", own)
		out.Set("properties", props)
	case "Mount":
		merge(out, own)
		merge(props, obj(own, "properties"))
		props.Set("type", named)
		out.Set("properties", props)
	default:
		merge(out, own)
	}
	return hoistDefinitions(out), nil
}

func merge(to, from *pyjson.Object) {
	for _, k := range from.Keys {
		to.Set(k, from.Values[k])
	}
}

// hoistDefinitions moves definitions to the root, as references in modules'
// schemas are written as if they stood there.
func hoistDefinitions(out *pyjson.Object) *pyjson.Object {
	props, ok := out.Get("properties").(*pyjson.Object)
	if !ok {
		return out
	}
	props = without(props, "definitions", out)
	out.Set("properties", props)
	if options, ok := props.Get("options").(*pyjson.Object); ok {
		props.Set("options", without(options, "definitions", out))
	}
	return out
}

// without returns o without the key, whose value it sets in to.
func without(o *pyjson.Object, key string, to *pyjson.Object) *pyjson.Object {
	rest := pyjson.NewObject()
	for _, k := range o.Keys {
		if k == key {
			to.Set(k, o.Values[k])
		} else {
			rest.Set(k, o.Values[k])
		}
	}
	return rest
}

func object(raw json.RawMessage) (*pyjson.Object, error) {
	if len(raw) == 0 {
		return pyjson.NewObject(), nil
	}
	doc, err := pyjson.Decode(raw, nil)
	if err != nil {
		return nil, err
	}
	o, ok := doc.(*pyjson.Object)
	if !ok {
		return nil, errors.New("not an object")
	}
	return o, nil
}
