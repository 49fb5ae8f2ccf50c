package pipeline

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ossify/ossify/pyjson"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// Tools that read osbuild's --json compare its messages, which are those of
// Python's jsonschema. The functions here give the same sentences.

// pythonExtras is the message for keys that a schema does not know.
func pythonExtras(s *pyjson.Object, names []string) string {
	names = append([]string(nil), names...)
	sort.Strings(names)
	list := reprs(names)
	if patterns, ok := s.Get("patternProperties").(*pyjson.Object); ok {
		known := append([]string(nil), patterns.Keys...)
		sort.Strings(known)
		verb := "do"
		if len(names) == 1 {
			verb = "does"
		}
		return fmt.Sprintf("%s %s not match any of the regexes: %s", list, verb, reprs(known))
	}
	verb := "were"
	if len(names) == 1 {
		verb = "was"
	}
	return fmt.Sprintf("Additional properties are not allowed (%s %s unexpected)", list, verb)
}

func reprs(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = pyRepr(n)
	}
	return strings.Join(quoted, ", ")
}

// pythonType is the message for a value of the wrong type; the schema's own
// order of types counts.
func pythonType(s *pyjson.Object, k *kind.Type, inst any) string {
	want := k.Want
	if types := list(s, "type"); types != nil {
		want = nil
		for _, t := range types {
			name, _ := t.(string)
			want = append(want, name)
		}
	}
	return fmt.Sprintf("%s is not of type %s", pyRepr(inst), reprs(want))
}

// pythonOther is the message for all other kinds of errors.
func pythonOther(s *pyjson.Object, k jsonschema.ErrorKind, inst any) string {
	got := pyRepr(inst)
	limit := func(key, one, zero, other string) string {
		switch n := s.Get(key); n {
		case json.Number("1"):
			return got + " " + one
		case json.Number("0"):
			return got + " " + zero
		}
		return got + " " + other
	}
	switch k := k.(type) {
	case *kind.Enum:
		return fmt.Sprintf("%s is not one of %s", got, pyRepr(s.Get("enum")))
	case *kind.AnyOf:
		return got + " is not valid under any of the given schemas"
	case *kind.OneOf:
		if len(k.Subschemas) < 2 {
			return got + " is not valid under any of the given schemas"
		}
		all := list(s, "oneOf")
		return fmt.Sprintf("%s is valid under each of %s, %s", got, pyRepr(all[k.Subschemas[1]]), pyRepr(all[k.Subschemas[0]]))
	case *kind.Not:
		return fmt.Sprintf("%s should not be valid under %s", got, pyRepr(s.Get("not")))
	case *kind.Pattern:
		return fmt.Sprintf("%s does not match %s", got, pyRepr(k.Want))
	case *kind.MinLength:
		return limit("minLength", "should be non-empty", "is too short", "is too short")
	case *kind.MaxLength:
		return limit("maxLength", "is too long", "is expected to be empty", "is too long")
	case *kind.MinItems:
		return limit("minItems", "should be non-empty", "is too short", "is too short")
	case *kind.MaxItems:
		return limit("maxItems", "is too long", "is expected to be empty", "is too long")
	case *kind.MinProperties:
		return limit("minProperties", "should be non-empty", "does not have enough properties", "does not have enough properties")
	case *kind.MaxProperties:
		return limit("maxProperties", "has too many properties", "is expected to be empty", "has too many properties")
	case *kind.UniqueItems:
		return got + " has non-unique elements"
	case *kind.Minimum:
		return fmt.Sprintf("%s is less than the minimum of %s", got, pyRepr(s.Get("minimum")))
	case *kind.Maximum:
		return fmt.Sprintf("%s is greater than the maximum of %s", got, pyRepr(s.Get("maximum")))
	case *kind.ExclusiveMinimum:
		return fmt.Sprintf("%s is less than or equal to the minimum of %s", got, pyRepr(s.Get("minimum")))
	case *kind.ExclusiveMaximum:
		return fmt.Sprintf("%s is greater than or equal to the maximum of %s", got, pyRepr(s.Get("maximum")))
	case *kind.MultipleOf:
		return fmt.Sprintf("%s is not a multiple of %s", got, pyRepr(s.Get("multipleOf")))
	case *kind.Dependency:
		return fmt.Sprintf("%s is a dependency of %s", pyRepr(k.Missing[0]), pyRepr(k.Prop))
	case *kind.AdditionalItems:
		items, _ := inst.([]any)
		verb := "were"
		if k.Count == 1 {
			verb = "was"
		}
		extra := pyRepr(items[len(items)-k.Count:])
		return fmt.Sprintf("Additional items are not allowed (%s %s unexpected)", extra[1:len(extra)-1], verb)
	}
	return fmt.Sprintf("%s is not valid", got)
}

// pyRepr is Python's repr of a decoded JSON value.
func pyRepr(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case string:
		return reprString(v)
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = pyRepr(item)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case *pyjson.Object:
		parts := make([]string, len(v.Keys))
		for i, k := range v.Keys {
			parts[i] = reprString(k) + ": " + pyRepr(v.Values[k])
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return string(pyjson.Dumps(v, false))
}

// reprString quotes with ' unless that would need escapes and " would not.
func reprString(s string) string {
	quote := '\''
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	var b strings.Builder
	b.WriteRune(quote)
	for i, r := range s {
		switch {
		case r == quote || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == utf8.RuneError && s[i] == 0xed && i+2 < len(s):
			// A lone surrogate: three bytes that are no UTF-8.
			fmt.Fprintf(&b, `\u%04x`, 0xd000|rune(s[i+1]&0x3f)<<6|rune(s[i+2]&0x3f))
		case r == utf8.RuneError && s[i] != 0xef:
			// The other bytes of a surrogate.
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteRune(quote)
	return b.String()
}
