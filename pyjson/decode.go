package pyjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

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

// maxDepth bounds the nesting of values: osbuild on Python 3.11 ends at 989.
const maxDepth = 1000

// maxDigits is how long an int may be for Python (3.11) to read it.
const maxDigits = 4300

// Decode decodes one JSON text. Values are nil, bool, string, json.Number,
// []any and *Object. offsets, which may be nil, gets the byte offset of the end
// of each object key, and of the beginning of each array element, by the path of
// the value as Path writes it. The error is a *SyntaxError.
//
// Lone surrogates are kept, as Python keeps them: in the three bytes that UTF-8
// would have for them. NaN and Infinity are refused, which are not JSON.
func Decode(data []byte, offsets map[string]int) (any, error) {
	d := &decoder{text: string(data), offsets: offsets}
	v, err := d.document()
	if err != nil {
		line, column := Position(data, d.pos)
		return nil, &SyntaxError{Line: line, Column: column, Reason: err.Error()}
	}
	return v, nil
}

// Position turns a byte offset into a line and a column, both from 1.
func Position(data []byte, offset int) (line, column int) {
	before := data[:min(max(offset, 0), len(data))]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

// decoder reads text; pos is where it is, and where the fault is after an error.
type decoder struct {
	text    string
	pos     int
	offsets map[string]int
}

func (d *decoder) document() (any, error) {
	if strings.HasPrefix(d.text, "\ufeff") {
		return nil, fmt.Errorf("the text starts with a byte order mark: save it as UTF-8 without one")
	}
	v, err := d.value("", 0)
	if err != nil {
		return nil, err
	}
	if d.space(); d.pos < len(d.text) {
		return nil, fmt.Errorf("there is %s after the end of the document", d.here())
	}
	return v, nil
}

func (d *decoder) space() {
	for d.pos < len(d.text) && strings.IndexByte(" \t\n\r", d.text[d.pos]) >= 0 {
		d.pos++
	}
}

// here names what stands at pos.
func (d *decoder) here() string {
	if d.pos >= len(d.text) {
		return "the end of the text"
	}
	r, _ := utf8.DecodeRuneInString(d.text[d.pos:])
	return strconv.QuoteRune(r)
}

func (d *decoder) unexpected(want string) error {
	if d.pos >= len(d.text) {
		return fmt.Errorf("the text ends where %s is expected", want)
	}
	return fmt.Errorf("expected %s, not %s", want, d.here())
}

// take skips c, if it stands at pos.
func (d *decoder) take(c byte) bool {
	if d.pos < len(d.text) && d.text[d.pos] == c {
		d.pos++
		return true
	}
	return false
}

func (d *decoder) value(path string, depth int) (any, error) {
	d.space()
	if depth > maxDepth {
		return nil, fmt.Errorf("values are nested more than %d deep", maxDepth)
	}
	rest := d.text[d.pos:]
	switch {
	case strings.HasPrefix(rest, "{"):
		return d.object(path, depth)
	case strings.HasPrefix(rest, "["):
		return d.array(path, depth)
	case strings.HasPrefix(rest, `"`):
		return d.str()
	case strings.HasPrefix(rest, "null"):
		d.pos += len("null")
		return nil, nil
	case strings.HasPrefix(rest, "true"):
		d.pos += len("true")
		return true, nil
	case strings.HasPrefix(rest, "false"):
		d.pos += len("false")
		return false, nil
	case strings.HasPrefix(rest, "NaN"), strings.HasPrefix(rest, "Infinity"), strings.HasPrefix(rest, "-Infinity"):
		return nil, fmt.Errorf("NaN and Infinity are not JSON")
	case rest != "" && (rest[0] == '-' || isDigit(rest[0])):
		return d.number()
	}
	return nil, d.unexpected("a value")
}

func (d *decoder) array(path string, depth int) (any, error) {
	d.pos++
	list := []any{}
	if d.space(); d.take(']') {
		return list, nil
	}
	for {
		at := path + "[" + strconv.Itoa(len(list)) + "]"
		if d.space(); d.offsets != nil {
			d.offsets[at] = d.pos
		}
		v, err := d.value(at, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		if d.space(); d.take(']') {
			return list, nil
		}
		if !d.take(',') {
			return nil, d.unexpected("',' or ']'")
		}
	}
}

func (d *decoder) object(path string, depth int) (any, error) {
	d.pos++
	o := NewObject()
	if d.space(); d.take('}') {
		return o, nil
	}
	for {
		if d.space(); d.pos >= len(d.text) || d.text[d.pos] != '"' {
			return nil, d.unexpected("a key in double quotes")
		}
		key, err := d.str()
		if err != nil {
			return nil, err
		}
		at := path + Member(key)
		if d.offsets != nil {
			d.offsets[at] = d.pos
		}
		if d.space(); !d.take(':') {
			return nil, d.unexpected("':'")
		}
		v, err := d.value(at, depth+1)
		if err != nil {
			return nil, err
		}
		o.Set(key, v)
		if d.space(); d.take('}') {
			return o, nil
		}
		if !d.take(',') {
			return nil, d.unexpected("',' or '}'")
		}
	}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func (d *decoder) digits() int {
	start := d.pos
	for d.pos < len(d.text) && isDigit(d.text[d.pos]) {
		d.pos++
	}
	return d.pos - start
}

func (d *decoder) number() (any, error) {
	start := d.pos
	d.take('-')
	digits := 1
	if !d.take('0') {
		if digits = d.digits(); digits == 0 {
			return nil, d.unexpected("a digit")
		}
	}
	isInt := true
	if d.take('.') {
		isInt = false
		if d.digits() == 0 {
			return nil, d.unexpected("a digit")
		}
	}
	if d.take('e') || d.take('E') {
		isInt = false
		if !d.take('+') {
			d.take('-')
		}
		if d.digits() == 0 {
			return nil, d.unexpected("a digit")
		}
	}
	if isInt && digits > maxDigits {
		d.pos = start
		return nil, fmt.Errorf("the number has more than %d digits", maxDigits)
	}
	return json.Number(d.text[start:d.pos]), nil
}

func (d *decoder) str() (string, error) {
	d.pos++
	start := d.pos
	var buf []byte // only for strings with escapes
	for d.pos < len(d.text) {
		c := d.text[d.pos]
		switch {
		case c == '"':
			chunk := d.text[start:d.pos]
			d.pos++
			if buf == nil {
				return chunk, nil
			}
			return string(append(buf, chunk...)), nil
		case c == '\\':
			buf = append(buf, d.text[start:d.pos]...)
			r, err := d.escape()
			if err != nil {
				return "", err
			}
			buf = appendRune(buf, r)
			start = d.pos
		case c < ' ':
			return "", fmt.Errorf("the control character %s must be escaped in a string", d.here())
		case c < utf8.RuneSelf:
			d.pos++
		default:
			r, size := utf8.DecodeRuneInString(d.text[d.pos:])
			if r == utf8.RuneError && size == 1 {
				return "", fmt.Errorf("the byte 0x%02x is not UTF-8", c)
			}
			d.pos += size
		}
	}
	return "", fmt.Errorf("the text ends inside a string")
}

// escape reads an escape sequence, of which two may make one character.
func (d *decoder) escape() (rune, error) {
	rest := d.text[d.pos+1:]
	if rest == "" {
		d.pos = len(d.text)
		return 0, fmt.Errorf("the text ends inside a string")
	}
	if i := strings.IndexByte(`"\/bfnrt`, rest[0]); i >= 0 {
		d.pos += 2
		return rune("\"\\/\b\f\n\r\t"[i]), nil
	}
	r, ok := hex4(d.text[d.pos:])
	if !ok {
		return 0, fmt.Errorf(`unknown escape sequence \%c; an escaped character is written as \u and four hexadecimal digits`, rest[0])
	}
	d.pos += 6
	if utf16.IsSurrogate(r) {
		if low, ok := hex4(d.text[d.pos:]); ok {
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				d.pos += 6
				return both, nil
			}
		}
	}
	return r, nil
}

// hex4 reads \uXXXX at the start of s.
func hex4(s string) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	v, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(v), err == nil
}

// appendRune is utf8.AppendRune that also writes lone surrogates.
func appendRune(b []byte, r rune) []byte {
	if utf16.IsSurrogate(r) {
		return append(b, 0xed, 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
	}
	return utf8.AppendRune(b, r)
}

// decodeRune is utf8.DecodeRuneInString that also reads lone surrogates.
func decodeRune(s string) (rune, int) {
	if len(s) >= 3 && s[0] == 0xed && s[1] >= 0xa0 && s[1] <= 0xbf && s[2] >= 0x80 && s[2] <= 0xbf {
		return 0xd000 | rune(s[1]&0x3f)<<6 | rune(s[2]&0x3f), 3
	}
	return utf8.DecodeRuneInString(s)
}

// Runes are the characters of a string as Python counts them: a lone surrogate
// is one.
func Runes(s string) []rune {
	runes := make([]rune, 0, len(s))
	for i := 0; i < len(s); {
		r, size := decodeRune(s[i:])
		runes = append(runes, r)
		i += size
	}
	return runes
}
