package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/ossify/ossify/pyjson"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// place is where a checked value is in the manifest, and what osbuild calls it.
type place struct {
	value    any
	path, as []any
}

// check checks value, which is at path, against the schema. osbuild calls the
// place as.
func (c *checker) check(s *schema, value any, path, as []any) {
	var invalid *jsonschema.ValidationError
	if err := s.compiled.Validate(pyjson.Plain(value)); !errors.As(err, &invalid) {
		if err != nil {
			c.fail(path, "%v", err)
		}
		return
	}
	c.report(s, invalid, &place{value, path, as}, nil)
}

// report turns the library's tree of errors into faults: the leaves, but for
// alternatives, which are one fault. told is what osbuild says of alternatives
// of which e is one, or nil.
func (c *checker) report(s *schema, e *jsonschema.ValidationError, at *place, told *verdict) {
	own, inst := steps(at.value, e.InstanceLocation)
	path := append(append([]any(nil), at.path...), own...)
	as := append(append([]any(nil), at.as...), own...)
	leaf := false
	fail := func(python string, path []any, format string, args ...any) {
		v := told
		if v == nil {
			v = &verdict{as, python}
		}
		c.add(Fault{Path: path, Message: fmt.Sprintf(format, args...), told: v})
		leaf = true
	}
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		allowed := s.allowed(e.SchemaURL)
		for _, name := range k.Properties {
			msg := fmt.Sprintf("%q is not allowed here", name)
			if len(allowed) > 0 {
				msg += "; allowed: " + strings.Join(allowed, ", ")
			}
			fail(pythonExtras(s.at(e.SchemaURL), k.Properties), append(path[:len(path):len(path)], name), "%s%s", msg, didYouMean(name, allowed))
		}
	case *kind.Required:
		for _, name := range k.Missing {
			fail(pyRepr(name)+" is a required property", path, "%q is missing", name)
		}
	case *kind.Type:
		fail(pythonType(s.at(e.SchemaURL), k, inst), path, "must be %s, not %s", strings.Join(k.Want, " or "), k.Got)
	case *kind.Enum:
		fail(pythonOther(s.at(e.SchemaURL), e.ErrorKind, inst), path, "%s is not one of %s", jsonText(k.Got), jsonTexts(k.Want))
	case *kind.RefCycle:
		fail("", path, "the module's schema refers to itself in a circle, which is a fault of the module (%s)", k.URL)
	case *kind.OneOf, *kind.AnyOf:
		if told == nil {
			told = &verdict{as, pythonOther(s.at(e.SchemaURL), e.ErrorKind, inst)}
		}
		if best := deepest(e.Causes); best != nil {
			c.report(s, best, at, told)
			return
		}
		if len(e.Causes) > 0 {
			fail("", path, "fits none of the allowed forms: %s", strings.Join(alternatives(s, e.Causes, at), "; or "))
		} else {
			fail("", path, "fits more than one of the forms of which it must fit one")
		}
	}
	if leaf {
		return
	}
	if len(e.Causes) > 0 {
		for _, cause := range e.Causes {
			c.report(s, cause, at, told)
		}
		return
	}
	fail(pythonOther(s.at(e.SchemaURL), e.ErrorKind, inst), path, "%s",
		e.ErrorKind.LocalizedString(message.NewPrinter(language.English)))
}

// alternatives says for each of several schemas why the value does not fit.
func alternatives(s *schema, causes []*jsonschema.ValidationError, at *place) []string {
	var texts []string
	for _, cause := range causes {
		var sub checker
		sub.report(s, cause, &place{value: at.value}, nil)
		var parts []string
		for _, f := range sub.faults {
			parts = append(parts, f.Message)
		}
		texts = append(texts, strings.Join(parts, ", "))
	}
	return texts
}

func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

func jsonTexts(values []any) string {
	var texts []string
	for _, v := range values {
		texts = append(texts, jsonText(v))
	}
	return strings.Join(texts, ", ")
}

// deepest returns the alternative that got furthest into the value, which is
// most likely the one that was meant; nil if there is no such one.
func deepest(causes []*jsonschema.ValidationError) *jsonschema.ValidationError {
	var best *jsonschema.ValidationError
	depth, tie := -1, false
	for _, c := range causes {
		d := reach(c)
		switch {
		case d > depth:
			best, depth, tie = c, d, false
		case d == depth:
			tie = true
		}
	}
	if tie {
		return nil
	}
	return best
}

func reach(e *jsonschema.ValidationError) int {
	d := len(e.InstanceLocation)
	for _, c := range e.Causes {
		d = max(d, reach(c))
	}
	return d
}

// steps turns a JSON pointer's steps into keys and indexes of value, and
// returns what is there.
func steps(value any, pointer []string) (path []any, at any) {
	for _, step := range pointer {
		switch v := value.(type) {
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(v) {
				return path, value
			}
			path, value = append(path, i), v[i]
		case *pyjson.Object:
			path, value = append(path, step), v.Get(step)
		default:
			return path, value
		}
	}
	return path, value
}

// at returns the part of the schema that the URL of an error points to; an
// empty one if there is none.
func (s *schema) at(location string) *pyjson.Object {
	_, fragment, _ := strings.Cut(location, "#")
	var pointer []string
	for _, step := range strings.Split(strings.Trim(fragment, "/"), "/") {
		if plain, err := url.PathUnescape(step); err == nil {
			step = plain
		}
		if step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step); step != "" {
			pointer = append(pointer, step)
		}
	}
	_, doc := steps(s.doc, pointer)
	if o, ok := doc.(*pyjson.Object); ok {
		return o
	}
	return pyjson.NewObject()
}

// allowed lists the property names that the schema at that URL knows.
func (s *schema) allowed(url string) []string { return sortedKeys(obj(s.at(url), "properties").Values) }
