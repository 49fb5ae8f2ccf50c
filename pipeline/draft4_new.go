package pipeline

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ossify/ossify/pyjson"
)

// newSchema makes a schema of its text. It refuses one that check could not
// use: a keyword with a value of the wrong kind, a reference to nothing, or to
// itself without end.
func newSchema(doc *pyjson.Object) (*schema, error) {
	s := &schema{doc: doc, patterns: map[string]*pattern{}, refs: map[string]*pyjson.Object{}}
	c := &compiler{schema: s, seen: map[*pyjson.Object]bool{}}
	if err := c.node(doc, nil); err != nil {
		return nil, err
	}
	for len(c.todo) > 0 {
		next := c.todo[0]
		c.todo = c.todo[1:]
		for _, k := range next.node.Keys {
			if err := c.partKeyword(k, next.node.Get(k), below(next.path, k)); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// compiler walks over all parts of a schema.
type compiler struct {
	*schema
	// seen has the parts that were met; false while what they say of the same
	// value is looked at, and who meets them then goes round in a circle.
	seen map[*pyjson.Object]bool
	// todo are parts whose keywords for parts of the value were not looked at.
	todo []part
}

type part struct {
	node *pyjson.Object
	path []any
}

func faulty(path []any, format string, args ...any) error {
	return fmt.Errorf("at %s: %s", Fault{Path: path}.ID(), fmt.Sprintf(format, args...))
}

func (c *compiler) node(v any, path []any) error {
	node, ok := v.(*pyjson.Object)
	if !ok {
		return faulty(path, "must be a schema, which is an object")
	}
	if done, met := c.seen[node]; met {
		if !done {
			return faulty(path, "refers to itself without end")
		}
		return nil
	}
	c.seen[node] = false
	for _, k := range node.Keys {
		if err := c.ownKeyword(k, node.Get(k), below(path, k)); err != nil {
			return err
		}
	}
	c.seen[node] = true
	c.todo = append(c.todo, part{node, path})
	return nil
}

// ownKeyword looks at a keyword that is about a value as a whole.
func (c *compiler) ownKeyword(k string, v any, path []any) error {
	switch k {
	case "$ref":
		return c.reference(v, path)
	case "type":
		names := []any{v}
		if l, ok := v.([]any); ok {
			names = l
		}
		for _, name := range names {
			if name, ok := name.(string); !ok || !slices.Contains(typeOrder, name) {
				return faulty(path, "%s is no type", jsonText(v))
			}
		}
	case "enum":
		if _, ok := v.([]any); !ok {
			return faulty(path, "must be a list")
		}
	case "required":
		return names(v, path)
	case "minimum", "maximum", "multipleOf":
		if n, ok := v.(json.Number); !ok || !pyjson.Finite(n) || k == "multipleOf" && isZero(n) {
			return faulty(path, "must be a number")
		}
	case "exclusiveMinimum", "exclusiveMaximum", "uniqueItems":
		if _, ok := v.(bool); !ok {
			return faulty(path, "must be true or false")
		}
	case "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties":
		n, _ := v.(json.Number)
		if i, err := strconv.Atoi(string(n)); err != nil || i < 0 {
			return faulty(path, "must be a whole number that is not negative")
		}
	case "pattern":
		p, ok := v.(string)
		if !ok {
			return faulty(path, "must be a string")
		}
		return c.pattern(p, path)
	case "allOf", "anyOf", "oneOf":
		return c.nodes(v, path)
	case "not":
		return c.node(v, path)
	case "dependencies":
		return c.members(v, path, func(v any, path []any) error {
			if _, ok := v.([]any); ok {
				return names(v, path)
			}
			return c.node(v, path)
		})
	}
	return nil
}

// partKeyword looks at a keyword that is about what a value consists of.
func (c *compiler) partKeyword(k string, v any, path []any) error {
	switch k {
	case "properties", "definitions":
		return c.members(v, path, c.node)
	case "patternProperties":
		if o, ok := v.(*pyjson.Object); ok {
			for _, p := range o.Keys {
				if err := c.pattern(p, path); err != nil {
					return err
				}
			}
		}
		return c.members(v, path, c.node)
	case "additionalProperties", "additionalItems":
		if _, ok := v.(bool); ok {
			return nil
		}
		return c.node(v, path)
	case "items":
		if _, ok := v.([]any); ok {
			return c.nodes(v, path)
		}
		return c.node(v, path)
	}
	return nil
}

func (c *compiler) members(v any, path []any, look func(any, []any) error) error {
	o, ok := v.(*pyjson.Object)
	if !ok {
		return faulty(path, "must be an object")
	}
	for _, k := range o.Keys {
		if err := look(o.Get(k), below(path, k)); err != nil {
			return err
		}
	}
	return nil
}

func (c *compiler) nodes(v any, path []any) error {
	l, ok := v.([]any)
	if !ok || len(l) == 0 {
		return faulty(path, "must be a list of schemas")
	}
	for i, v := range l {
		if err := c.node(v, below(path, i)); err != nil {
			return err
		}
	}
	return nil
}

func names(v any, path []any) error {
	l, ok := v.([]any)
	if !ok {
		return faulty(path, "must be a list of names")
	}
	for _, v := range l {
		if _, ok := v.(string); !ok {
			return faulty(path, "must be a list of names")
		}
	}
	return nil
}

func (c *compiler) pattern(text string, path []any) error {
	p, err := newPattern(text)
	if err != nil {
		return faulty(path, "%v", err)
	}
	c.patterns[text] = p
	return nil
}

// reference looks at what a reference points to, which must be in the schema.
func (c *compiler) reference(v any, path []any) error {
	ref, _ := v.(string)
	pointer, inside := strings.CutPrefix(ref, "#")
	if !inside {
		return faulty(path, "%s is no reference within the schema", jsonText(v))
	}
	var target any = c.doc
	var at []any
	for _, step := range strings.Split(pointer, "/")[1:] {
		if plain, err := url.PathUnescape(step); err == nil {
			step = plain
		}
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		switch v := target.(type) {
		case *pyjson.Object:
			target, at = v.Get(step), append(at, step)
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(v) {
				return faulty(path, "%s points to nothing", ref)
			}
			target, at = v[i], append(at, i)
		}
	}
	node, ok := target.(*pyjson.Object)
	if !ok {
		return faulty(path, "%s points to no schema", ref)
	}
	c.refs[ref] = node
	return c.node(node, at)
}
