package stages

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// ordered is a JSON object whose members keep the order of the manifest: users
// get their ids and files their modes in the order in which they are written.
type ordered[V any] []member[V]

type member[V any] struct {
	name  string
	value V
}

// UnmarshalJSON decodes an object. Of two members with one name the last value
// counts, at the first one's place, as in osbuild.
func (o *ordered[V]) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil {
		return err
	}
	if open != json.Delim('{') {
		return fmt.Errorf("expected an object, got %s", data)
	}
	places := map[string]int{}
	out := ordered[V]{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		m := member[V]{name: token.(string)}
		if err := dec.Decode(&m.value); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if i, ok := places[m.name]; ok {
			out[i] = m
			continue
		}
		places[m.name] = len(out)
		out = append(out, m)
	}
	*o = out
	return nil
}

// set replaces the value of a member, or adds one at the end.
func (o *ordered[V]) set(name string, value V) {
	for i := range *o {
		if (*o)[i].name == name {
			(*o)[i].value = value
			return
		}
	}
	*o = append(*o, member[V]{name, value})
}
