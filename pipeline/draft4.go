package pipeline

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/ossify/ossify/pyjson"
)

// A schema is a JSON schema of draft 4. osbuild checks with Python's jsonschema,
// and tools compare what it says; so this finds the same errors, all of them, at
// the same places, and knows the same words for each. For people an error is
// told at the place that has to be changed.
type schema struct {
	doc *pyjson.Object
	// patterns are the regular expressions of doc, refs what its references
	// point to.
	patterns map[string]*pattern
	refs     map[string]*pyjson.Object
}

// breach is one error of a value: path leads to it, words are Python's.
type breach struct {
	path  []any
	words string
	// faults say the same for people; of alternatives they may be more than
	// one, and deeper in the value.
	faults []Fault
}

// found is a breach with one fault at the same place.
func found(path []any, words, format string, args ...any) breach {
	return breach{path, words, []Fault{{Path: path, Message: fmt.Sprintf(format, args...)}}}
}

// below is a path with one more step.
func below(path []any, steps ...any) []any {
	return append(path[:len(path):len(path)], steps...)
}

// check lists what is wrong with the value at path.
func (s *schema) check(node *pyjson.Object, value any, path []any) []breach {
	if ref, ok := node.Get("$ref").(string); ok {
		return s.check(s.refs[ref], value, path) // all else beside it is void
	}
	var out []breach
	if types := typeNames(node); types != nil && !slices.ContainsFunc(types, func(t string) bool { return isType(value, t) }) {
		out = append(out, found(path, fmt.Sprintf("%s is not of type %s", pyRepr(value), reprs(types)),
			"must be %s, not %s", strings.Join(types, " or "), typeOf(value)))
	}
	if enum, ok := node.Get("enum").([]any); ok {
		same := func(v any) bool { return identity(v) == identity(value) }
		if !slices.ContainsFunc(enum, same) {
			out = append(out, found(path, fmt.Sprintf("%s is not one of %s", pyRepr(value), pyRepr(enum)),
				"%s is not one of %s", jsonText(value), jsonTexts(enum)))
		}
	}
	switch v := value.(type) {
	case *pyjson.Object:
		out = append(out, s.checkObject(node, v, path)...)
	case []any:
		out = append(out, s.checkArray(node, v, path)...)
	case string:
		out = append(out, s.checkString(node, v, path)...)
	case json.Number:
		out = append(out, checkNumber(node, v, path)...)
	}
	for _, sub := range schemas(node, "allOf") {
		out = append(out, s.check(sub, value, path)...)
	}
	if any := schemas(node, "anyOf"); any != nil {
		if fits, others := s.alternatives(any, value, path); len(fits) == 0 {
			out = append(out, noneFits(value, path, others))
		}
	}
	if one := schemas(node, "oneOf"); one != nil {
		switch fits, others := s.alternatives(one, value, path); len(fits) {
		case 0:
			out = append(out, noneFits(value, path, others))
		case 1:
		default:
			var texts []string
			for _, sub := range append(fits[1:], fits[0]) {
				texts = append(texts, pyRepr(sub))
			}
			out = append(out, found(path, fmt.Sprintf("%s is valid under each of %s", pyRepr(value), strings.Join(texts, ", ")),
				"fits more than one of the forms of which it must fit one"))
		}
	}
	if not, ok := node.Get("not").(*pyjson.Object); ok && len(s.check(not, value, path)) == 0 {
		out = append(out, found(path, fmt.Sprintf("%s should not be valid under %s", pyRepr(value), pyRepr(not)),
			"%s is what is not allowed here: %s", jsonText(value), jsonText(not)))
	}
	return out
}

func (s *schema) checkObject(node, o *pyjson.Object, path []any) []breach {
	var out []breach
	if n, ok := size(node, "minProperties"); ok && len(o.Keys) < n {
		out = append(out, found(path, fewer(o, n, "does not have enough properties"), "must have at least %d members, not %d", n, len(o.Keys)))
	}
	if n, ok := size(node, "maxProperties"); ok && len(o.Keys) > n {
		out = append(out, found(path, more(o, n, "has too many properties"), "must have at most %d members, not %d", n, len(o.Keys)))
	}
	for _, v := range list(node, "required") {
		if name := v.(string); !o.Has(name) {
			out = append(out, found(path, pyRepr(name)+" is a required property", "%q is missing", name))
		}
	}
	dependencies := obj(node, "dependencies")
	for _, name := range dependencies.Keys {
		if !o.Has(name) {
			continue
		}
		if sub, ok := dependencies.Get(name).(*pyjson.Object); ok {
			out = append(out, s.check(sub, o, path)...)
		}
		for _, v := range list(dependencies, name) {
			if other := v.(string); !o.Has(other) {
				out = append(out, found(path, fmt.Sprintf("%s is a dependency of %s", pyRepr(other), pyRepr(name)), "%q needs %q beside it", name, other))
			}
		}
	}
	properties, patterns := obj(node, "properties"), obj(node, "patternProperties")
	var extras []string
	for _, name := range o.Keys {
		known := properties.Has(name)
		if known {
			out = append(out, s.check(obj(properties, name), o.Get(name), below(path, name))...)
		}
		for _, p := range patterns.Keys {
			if s.patterns[p].matches(name) {
				known = true
				out = append(out, s.check(obj(patterns, p), o.Get(name), below(path, name))...)
			}
		}
		if known {
			continue
		}
		if sub, ok := node.Get("additionalProperties").(*pyjson.Object); ok {
			out = append(out, s.check(sub, o.Get(name), below(path, name))...)
		} else {
			extras = append(extras, name)
		}
	}
	if node.Get("additionalProperties") == false && len(extras) > 0 {
		out = append(out, notAllowed(properties, patterns, node.Has("patternProperties"), extras, path))
	}
	return out
}

// notAllowed is the breach of members that the schema does not know.
func notAllowed(properties, patterns *pyjson.Object, patterned bool, extras []string, path []any) breach {
	sort.Strings(extras)
	b := breach{path: path}
	many := len(extras) > 1
	if patterned {
		known := append([]string(nil), patterns.Keys...)
		sort.Strings(known)
		b.words = fmt.Sprintf("%s %s not match any of the regexes: %s", reprs(extras), choose(many, "do", "does"), reprs(known))
	} else {
		b.words = fmt.Sprintf("Additional properties are not allowed (%s %s unexpected)", reprs(extras), choose(many, "were", "was"))
	}
	allowed := sortedKeys(properties.Values)
	for _, name := range extras {
		msg := fmt.Sprintf("%q is not allowed here", name)
		if len(allowed) > 0 {
			msg += "; allowed: " + strings.Join(allowed, ", ")
		}
		b.faults = append(b.faults, Fault{Path: below(path, name), Message: msg + didYouMean(name, allowed)})
	}
	return b
}

func (s *schema) checkArray(node *pyjson.Object, items []any, path []any) []breach {
	var out []breach
	if n, ok := size(node, "minItems"); ok && len(items) < n {
		out = append(out, found(path, fewer(items, n, "is too short"), "must have at least %d items, not %d", n, len(items)))
	}
	if n, ok := size(node, "maxItems"); ok && len(items) > n {
		out = append(out, found(path, more(items, n, "is too long"), "must have at most %d items, not %d", n, len(items)))
	}
	if node.Get("uniqueItems") == true {
		seen := map[string]bool{}
		for i, item := range items {
			id := identity(item)
			if seen[id] {
				out = append(out, found(path, pyRepr(items)+" has non-unique elements", "item %d, %s, is there twice", i, jsonText(item)))
				break
			}
			seen[id] = true
		}
	}
	if each, ok := node.Get("items").(*pyjson.Object); ok {
		for i, item := range items {
			out = append(out, s.check(each, item, below(path, i))...)
		}
		return out
	}
	places := schemas(node, "items")
	for i, item := range items[:min(len(items), len(places))] {
		out = append(out, s.check(places[i], item, below(path, i))...)
	}
	if len(items) <= len(places) {
		return out
	}
	rest := items[len(places):]
	switch more := node.Get("additionalItems").(type) {
	case *pyjson.Object:
		for i, item := range rest {
			out = append(out, s.check(more, item, below(path, len(places)+i))...)
		}
	case bool:
		if !more {
			extra := pyRepr(rest)
			out = append(out, found(path, fmt.Sprintf("Additional items are not allowed (%s %s unexpected)", extra[1:len(extra)-1], choose(len(rest) > 1, "were", "was")),
				"must have at most %d items, not %d", len(places), len(items)))
		}
	}
	return out
}

func (s *schema) checkString(node *pyjson.Object, text string, path []any) []breach {
	var out []breach
	length := len(pyjson.Runes(text))
	if n, ok := size(node, "minLength"); ok && length < n {
		out = append(out, found(path, fewer(text, n, "is too short"), "must have at least %d characters, not %d", n, length))
	}
	if n, ok := size(node, "maxLength"); ok && length > n {
		out = append(out, found(path, more(text, n, "is too long"), "must have at most %d characters, not %d", n, length))
	}
	if p, ok := node.Get("pattern").(string); ok && !s.patterns[p].matches(text) {
		out = append(out, found(path, fmt.Sprintf("%s does not match %s", pyRepr(text), pyRepr(p)), "%s does not match the pattern %s", jsonText(text), p))
	}
	return out
}

func checkNumber(node *pyjson.Object, n json.Number, path []any) []breach {
	var out []breach
	limit := func(key string, sign int, than, people string) {
		bound, ok := node.Get(key).(json.Number)
		if !ok {
			return
		}
		c := rational(n).Cmp(rational(bound)) * sign
		exclusive := node.Get("exclusive"+strings.ToUpper(key[:1])+key[1:]) == true
		if c > 0 || c == 0 && !exclusive {
			return
		}
		if exclusive {
			than, people = than+" than or equal to", "not "+people+" or equal to"
		} else {
			than, people = than+" than", "not "+people
		}
		out = append(out, found(path, fmt.Sprintf("%s is %s the %s of %s", pyRepr(n), than, key, pyRepr(bound)), "must be %s %s, not %s", people, bound, n))
	}
	limit("minimum", 1, "less", "less than")
	limit("maximum", -1, "greater", "greater than")
	if unit, ok := node.Get("multipleOf").(json.Number); ok && !isMultiple(n, unit) {
		out = append(out, found(path, fmt.Sprintf("%s is not a multiple of %s", pyRepr(n), pyRepr(unit)), "%s is not a multiple of %s", n, unit))
	}
	return out
}

// isMultiple divides as Python does: by a float as floats, and exactly where
// that overflows.
func isMultiple(n, unit json.Number) bool {
	if isFloat(unit) {
		a, _ := rational(n).Float64()
		b, _ := rational(unit).Float64()
		if q := a / b; !math.IsInf(q, 0) {
			return q == math.Trunc(q)
		}
	}
	return new(big.Rat).Quo(rational(n), rational(unit)).IsInt()
}

// alternatives checks a value against each of several schemas.
func (s *schema) alternatives(subs []*pyjson.Object, value any, path []any) (fits []*pyjson.Object, others [][]breach) {
	for _, sub := range subs {
		if breaches := s.check(sub, value, path); len(breaches) == 0 {
			fits = append(fits, sub)
		} else {
			others = append(others, breaches)
		}
	}
	return fits, others
}

// noneFits is the breach of a value that fits no alternative. The one that got
// furthest into the value is most likely the one that was meant.
func noneFits(value any, path []any, others [][]breach) breach {
	b := breach{path: path, words: pyRepr(value) + " is not valid under any of the given schemas"}
	depth, tie := -1, false
	var texts []string
	for _, breaches := range others {
		var faults []Fault
		var parts []string
		reach := 0
		for _, other := range breaches {
			reach = max(reach, len(other.path))
			for _, f := range other.faults {
				faults = append(faults, f)
				parts = append(parts, f.Message)
				if len(f.Path) > len(other.path)+1 {
					reach = max(reach, len(f.Path)) // an alternative's own alternatives
				}
			}
		}
		texts = append(texts, strings.Join(parts, ", "))
		switch {
		case reach > depth:
			b.faults, depth, tie = faults, reach, false
		case reach == depth:
			tie = true
		}
	}
	if tie || len(others) == 0 {
		b.faults = []Fault{{Path: path, Message: "fits none of the allowed forms: " + strings.Join(texts, "; or ")}}
	}
	return b
}

func choose(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

// fewer and more are Python's words for what has too few or too many parts.
func fewer(v any, least int, words string) string {
	return pyRepr(v) + " " + choose(least == 1, "should be non-empty", words)
}

func more(v any, most int, words string) string {
	return pyRepr(v) + " " + choose(most == 0, "is expected to be empty", words)
}

// typeNames are the types that a schema allows, nil for all.
func typeNames(node *pyjson.Object) []string {
	if name, ok := node.Get("type").(string); ok {
		return []string{name}
	}
	var names []string
	for _, v := range list(node, "type") {
		names = append(names, v.(string))
	}
	return names
}

// isType says whether a value has a type; 1.0 is no integer in draft 4.
func isType(v any, name string) bool {
	switch v := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case json.Number:
		return name == "number" || name == "integer" && !isFloat(v)
	case []any:
		return name == "array"
	case *pyjson.Object:
		return name == "object"
	}
	return false
}

// typeOrder are the names of all types; of those of a number "number" is first.
var typeOrder = []string{"null", "boolean", "string", "number", "integer", "array", "object"}

func typeOf(v any) string {
	return typeOrder[slices.IndexFunc(typeOrder, func(name string) bool { return isType(v, name) })]
}

// isFloat says whether Python reads a number as a float.
func isFloat(n json.Number) bool { return strings.ContainsAny(string(n), ".eE") }

// rational is the exact value of a number, which for a float is that of the
// nearest double.
func rational(n json.Number) *big.Rat {
	if r, ok := new(big.Rat).SetString(string(n)); ok && !isFloat(n) {
		return r
	}
	f, _ := strconv.ParseFloat(string(n), 64) // finite: others are refused before
	r := new(big.Rat).SetFloat64(f)
	if r == nil {
		return new(big.Rat)
	}
	return r
}

// identity is a text that equal values share: 1 and 1.0 are equal, 1 and true
// are not, and the order of members does not count.
func identity(v any) string {
	switch v := v.(type) {
	case json.Number:
		return rational(v).RatString()
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = identity(item)
		}
		return "[" + strings.Join(parts, ",") + "]"
	case *pyjson.Object:
		parts := make([]string, len(v.Keys))
		for i, k := range sortedKeys(v.Values) {
			parts[i] = jsonText(k) + ":" + identity(v.Get(k))
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	return jsonText(v)
}

func jsonText(v any) string { return string(pyjson.Dumps(v, false)) }

func jsonTexts(values []any) string {
	var texts []string
	for _, v := range values {
		texts = append(texts, jsonText(v))
	}
	return strings.Join(texts, ", ")
}

// schemas are those of a list in a schema.
func schemas(node *pyjson.Object, key string) []*pyjson.Object {
	var subs []*pyjson.Object
	for _, v := range list(node, key) {
		subs = append(subs, v.(*pyjson.Object))
	}
	return subs
}

func size(node *pyjson.Object, key string) (int, bool) {
	n, ok := node.Get(key).(json.Number)
	if !ok {
		return 0, false
	}
	i, err := strconv.Atoi(string(n))
	return i, err == nil
}
