package ociarchive

import (
	"encoding/json"
	"fmt"

	"github.com/ossify/ossify/pyjson"
)

// defaultPath is the PATH of a container whose image says nothing else.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Config makes the part "config" of an image's configuration of the option of
// that name, which may be nil: without commands the image runs sh, without an
// environment it has a PATH, and lists of ports and volumes become objects. What
// is empty is left out.
func Config(option json.RawMessage) (*pyjson.Object, error) {
	from := pyjson.NewObject()
	if option != nil {
		value, err := pyjson.Decode(option, nil)
		if err != nil {
			return nil, err
		}
		object, ok := value.(*pyjson.Object)
		if !ok {
			return nil, fmt.Errorf("it must be an object, not %s", option)
		}
		from = object
	}
	config := pyjson.NewObject("Env", []any{"PATH=" + defaultPath}, "Cmd", []any{"sh"})
	for _, name := range []string{"Env", "Cmd"} {
		if from.Has(name) {
			config.Set(name, from.Get(name))
		}
	}
	for _, name := range []string{"Entrypoint", "User", "Labels", "StopSignal", "WorkingDir"} {
		value := from.Get(name)
		if name == "StopSignal" && empty(value) {
			value = from.Get("StopSiganl") // as osbuild's schema spells it
		}
		if !empty(value) {
			config.Set(name, value)
		}
	}
	for _, name := range []string{"ExposedPorts", "Volumes"} {
		items, _ := from.Get(name).([]any)
		if len(items) == 0 {
			continue
		}
		set := pyjson.NewObject()
		for _, item := range items {
			set.Set(fmt.Sprint(item), pyjson.NewObject())
		}
		config.Set(name, set)
	}
	return config, nil
}

// empty tells whether a value is one that counts as not given.
func empty(value any) bool {
	switch v := value.(type) {
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case *pyjson.Object:
		return len(v.Keys) == 0
	}
	return value == nil
}
