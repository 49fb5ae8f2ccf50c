// Package pyjson decodes JSON keeping what osbuild's ids depend on, the order of
// keys and the spelling of numbers, and encodes it as Python's json.dumps does.
package pyjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"sort"
	"strconv"
	"strings"
	"unicode/utf16"
)

// Object is a JSON object with its keys in their order. Of a repeated key the
// first place and the last value count, as in Python.
type Object struct {
	Keys   []string
	Values map[string]any
}

// NewObject returns an object with the given members: key, value, key, value...
func NewObject(members ...any) *Object {
	o := &Object{Values: map[string]any{}}
	for i := 0; i+1 < len(members); i += 2 {
		o.Set(members[i].(string), members[i+1])
	}
	return o
}

// Set adds a member or replaces its value.
func (o *Object) Set(key string, value any) {
	if _, ok := o.Values[key]; !ok {
		o.Keys = append(o.Keys, key)
	}
	o.Values[key] = value
}

// Get returns a member's value, nil if there is none.
func (o *Object) Get(key string) any { return o.Values[key] }

// Has says whether there is a member of that name; it may be null.
func (o *Object) Has(key string) bool {
	_, ok := o.Values[key]
	return ok
}

// Member writes a step into an object as osbuild's error ids do.
func Member(key string) string {
	if strings.Contains(key, " ") {
		return ".'" + key + "'"
	}
	return "." + key
}

// Dumps encodes v as json.dumps(v) does, or as json.dumps(v, sort_keys=True).
// Besides what Decode returns, v may hold int, int64 and map[string]any values,
// whose keys are always sorted, and a json.RawMessage, which is taken as it is.
func Dumps(v any, sortKeys bool) []byte {
	var b bytes.Buffer
	dump(&b, v, sortKeys)
	return b.Bytes()
}

func dump(b *bytes.Buffer, v any, sortKeys bool) {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case string:
		dumpString(b, v)
	case int:
		b.WriteString(strconv.Itoa(v))
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case json.Number:
		b.WriteString(number(string(v)))
	case json.RawMessage:
		b.Write(v)
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			dump(b, item, sortKeys)
		}
		b.WriteByte(']')
	case *Object:
		keys := v.Keys
		if sortKeys {
			keys = append([]string(nil), keys...)
			sort.Strings(keys)
		}
		dumpMembers(b, keys, v.Values, sortKeys)
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		dumpMembers(b, keys, v, sortKeys)
	default:
		panic(fmt.Sprintf("internal error: pyjson cannot encode %T", v))
	}
}

func dumpMembers(b *bytes.Buffer, keys []string, values map[string]any, sortKeys bool) {
	b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			b.WriteString(", ")
		}
		dumpString(b, k)
		b.WriteString(": ")
		dump(b, values[k], sortKeys)
	}
	b.WriteByte('}')
}

// number spells a number as Python does after reading it: integers of any
// length as they are, others by float.__repr__.
func number(s string) string {
	if !strings.ContainsAny(s, ".eE") {
		if n, ok := new(big.Int).SetString(s, 10); ok {
			return n.String()
		}
		return s
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && math.IsInf(f, 0) {
		if f < 0 {
			return "-Infinity"
		}
		return "Infinity"
	}
	return floatRepr(f)
}

// floatRepr is Python's repr: the shortest digits that give the same number,
// with an exponent below 1e-4 and from 1e16 on.
func floatRepr(f float64) string {
	if f == 0 {
		if math.Signbit(f) {
			return "-0.0"
		}
		return "0.0"
	}
	if abs := math.Abs(f); abs < 1e-4 || abs >= 1e16 {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func dumpString(b *bytes.Buffer, s string) {
	b.WriteByte('"')
	for i := 0; i < len(s); {
		r, size := decodeRune(s[i:])
		i += size
		switch r {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		case '\b':
			b.WriteString(`\b`)
		case '\f':
			b.WriteString(`\f`)
		default:
			switch {
			case r >= ' ' && r <= '~':
				b.WriteByte(byte(r))
			case r > 0xffff:
				high, low := utf16.EncodeRune(r)
				fmt.Fprintf(b, `\u%04x\u%04x`, high, low)
			default:
				fmt.Fprintf(b, `\u%04x`, r)
			}
		}
	}
	b.WriteByte('"')
}

// Finite says whether a number fits a float, if it is one: 1e400 does not, and
// Python writes it as Infinity, which is not JSON.
func Finite(n json.Number) bool { return !strings.Contains(number(string(n)), "Inf") }
