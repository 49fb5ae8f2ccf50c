// Package pyjson decodes JSON keeping what osbuild's ids depend on, the order of
// keys and the spelling of numbers, and encodes it as Python's json.dumps does.
package pyjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"sort"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Object is a JSON object with its keys in their order. Of a repeated key the
// first place and the last value count, as in Python.
type Object struct {
	Keys   []string
	Values map[string]any
}

// NewObject returns an empty object.
func NewObject() *Object { return &Object{Values: map[string]any{}} }

// Set adds a member or replaces its value.
func (o *Object) Set(key string, value any) {
	if _, ok := o.Values[key]; !ok {
		o.Keys = append(o.Keys, key)
	}
	o.Values[key] = value
}

// Get returns a member's value, nil if there is none.
func (o *Object) Get(key string) any { return o.Values[key] }

// SyntaxError is a fault in a JSON text. Line and Column count from 1; Column
// counts bytes.
type SyntaxError struct {
	Line, Column int
	Reason       string
}

// Error says where and what.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Reason)
}

// maxDepth bounds the nesting of values.
const maxDepth = 500

// Decode decodes one JSON text. Values are nil, bool, string, json.Number,
// []any and *Object. offsets, which may be nil, gets the byte offset of the end
// of each object key, by the path of its value as Path writes it. The error is
// a *SyntaxError.
func Decode(data []byte, offsets map[string]int) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	d := &decoder{dec: dec, offsets: offsets}
	v, err := d.value("", 0)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return v, nil
		}
		if err == nil {
			err = errors.New("there is something after the end of the document")
		}
	}
	return nil, locate(data, int(dec.InputOffset()), err)
}

func locate(data []byte, offset int, err error) error {
	reason := err.Error()
	var syntax *json.SyntaxError
	if json.Unmarshal(data, new(json.RawMessage)) != nil && errors.As(json.Unmarshal(data, new(json.RawMessage)), &syntax) {
		// The decoder of tokens is less exact than that of whole texts.
		offset, reason = int(syntax.Offset)-1, syntax.Error()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		offset, reason = len(data), "the text ends too early"
	}
	offset = min(max(offset, 0), len(data))
	line, column := Position(data, offset)
	return &SyntaxError{Line: line, Column: column, Reason: reason}
}

// Position turns a byte offset into a line and a column, both from 1.
func Position(data []byte, offset int) (line, column int) {
	before := data[:min(max(offset, 0), len(data))]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

type decoder struct {
	dec     *json.Decoder
	offsets map[string]int
}

func (d *decoder) value(path string, depth int) (any, error) {
	token, err := d.dec.Token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("values are nested more than %d deep", maxDepth)
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '[' {
			return d.array(path, depth)
		}
		return d.object(path, depth)
	default:
		return t, nil
	}
}

func (d *decoder) array(path string, depth int) (any, error) {
	list := []any{}
	for d.dec.More() {
		v, err := d.value(path+"["+strconv.Itoa(len(list))+"]", depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.dec.Token()
	return list, err
}

func (d *decoder) object(path string, depth int) (any, error) {
	o := NewObject()
	for d.dec.More() {
		token, err := d.dec.Token()
		if err != nil {
			return nil, err
		}
		key, ok := token.(string)
		if !ok {
			return nil, errors.New("the key of an object must be a string")
		}
		at := path + Member(key)
		if d.offsets != nil {
			d.offsets[at] = int(d.dec.InputOffset())
		}
		v, err := d.value(at, depth+1)
		if err != nil {
			return nil, err
		}
		o.Set(key, v)
	}
	_, err := d.dec.Token()
	return o, err
}

// Member writes a step into an object as osbuild's error ids do.
func Member(key string) string {
	if strings.Contains(key, " ") {
		return ".'" + key + "'"
	}
	return "." + key
}

// Dumps encodes v as json.dumps(v) does, or as json.dumps(v, sort_keys=True).
// Besides what Decode returns, v may hold Go strings, int64 and map[string]any
// values, whose keys are always sorted.
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
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case json.Number:
		b.WriteString(number(string(v)))
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
	for _, r := range s {
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
			case r > 0xffff && r != utf8.RuneError:
				high, low := utf16.EncodeRune(r)
				fmt.Fprintf(b, `\u%04x\u%04x`, high, low)
			default:
				fmt.Fprintf(b, `\u%04x`, r)
			}
		}
	}
	b.WriteByte('"')
}

// Plain turns a decoded value into Go's own maps and lists, for libraries.
func Plain(v any) any {
	switch v := v.(type) {
	case *Object:
		m := make(map[string]any, len(v.Keys))
		for k, item := range v.Values {
			m[k] = Plain(item)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = Plain(item)
		}
		return list
	}
	return v
}
