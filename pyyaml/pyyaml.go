// Package pyyaml writes YAML to the byte as PyYAML's yaml.dump does, in block
// style. No library of Go folds long and quoted text at the same places. It
// does not read YAML.
package pyyaml

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ossify/ossify/pattern"
	"github.com/ossify/ossify/pyjson"
)

// Flow is a list that is written on one line, where it fits.
type Flow []any

const (
	// width is the column beyond which a line is folded.
	width = 80
	// step is how much deeper each level is.
	step = 2
	// longKey is from how many characters on a key has a question mark.
	longKey = 123
)

// Dump writes an object: keys sorted, only ASCII. Values are those that
// pyjson.Decode returns, and Flow.
func Dump(object *pyjson.Object) string {
	w := writer{afterSpace: true, onlyIndent: true}
	w.node(object, -step, place{})
	w.indent(0)
	return w.out.String()
}

// writer knows what stands before what it writes next.
type writer struct {
	out    strings.Builder
	column int
	// afterSpace is true if no space is needed before an indicator.
	afterSpace bool
	// onlyIndent is true if the line has spaces and the indicators "-", "?"
	// and ":" only, so that a collection can begin on it.
	onlyIndent bool
}

// place is where a node stands, as far as its form depends on that.
type place struct {
	// value is true for the value of a key, key for one before its colon.
	value, key, flow bool
}

func (w *writer) write(text string) {
	w.out.WriteString(text)
	w.column += utf8.RuneCountInString(text)
}

func (w *writer) lineBreak() {
	w.out.WriteByte('\n')
	w.column, w.afterSpace, w.onlyIndent = 0, true, true
}

// indent goes to a column of the line, or of a new one if it is past that.
func (w *writer) indent(column int) {
	if !w.onlyIndent || w.column > column || w.column == column && !w.afterSpace {
		w.lineBreak()
	}
	if w.column < column {
		w.afterSpace = true
		w.write(strings.Repeat(" ", column-w.column))
	}
}

// indicator writes punctuation after which text needs a space.
func (w *writer) indicator(text string, needsSpace, isIndent bool) {
	if needsSpace && !w.afterSpace {
		w.write(" ")
	}
	w.write(text)
	w.afterSpace = false
	w.onlyIndent = w.onlyIndent && isIndent
}

// node writes a value in a collection whose items stand at column.
func (w *writer) node(value any, column int, at place) {
	switch v := value.(type) {
	case *pyjson.Object:
		w.object(v, column+step)
	case []any:
		switch {
		case len(v) == 0:
			w.indicator("[]", true, false)
		case at.value && !w.onlyIndent:
			w.list(v, column)
		default:
			w.list(v, column+step)
		}
	case Flow:
		w.flow(v, column+step)
	case string:
		w.text(v, column+step, at)
	default:
		w.plain(literal(value), column+step, !at.key)
	}
}

func (w *writer) object(object *pyjson.Object, column int) {
	if len(object.Keys) == 0 {
		w.indicator("{}", true, false)
		return
	}
	for _, key := range slices.Sorted(slices.Values(object.Keys)) {
		w.indent(column)
		simple := key != "" && utf8.RuneCountInString(key) < longKey && !strings.ContainsAny(key, lineBreaks)
		if simple {
			w.node(key, column, place{key: true})
			w.indicator(":", false, false)
		} else {
			w.indicator("?", true, true)
			w.node(key, column, place{value: true})
			w.indent(column)
			w.indicator(":", true, true)
		}
		w.node(object.Values[key], column, place{value: true})
	}
}

func (w *writer) list(items []any, column int) {
	for _, item := range items {
		w.indent(column)
		w.indicator("-", true, true)
		w.node(item, column, place{})
	}
}

func (w *writer) flow(items Flow, column int) {
	w.indicator("[", true, false)
	w.afterSpace = true
	for i, item := range items {
		if i > 0 {
			w.indicator(",", false, false)
		}
		if w.column > width {
			w.indent(column)
		}
		w.node(item, column, place{flow: true})
	}
	w.indicator("]", false, false)
}

// literal writes what is no text and no collection.
func literal(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprint(v)
	case json.Number:
		return number(v)
	}
	panic(fmt.Sprintf("internal error: pyyaml cannot write %T", value))
}

// number has a point before an exponent.
func number(n json.Number) string {
	text := string(pyjson.Dumps(n, false))
	switch text {
	case "Infinity":
		return ".inf"
	case "-Infinity":
		return "-.inf"
	}
	if digits, exponent, ok := strings.Cut(text, "e"); ok && !strings.Contains(digits, ".") {
		return digits + ".0e" + exponent
	}
	return text
}

// text writes a string in the first of three forms that can hold it.
func (w *writer) text(text string, column int, at place) {
	switch form := analyze(text); {
	case form.plain && !(at.flow && form.blockOnly) && !otherType().MatchString(text):
		w.plain(text, column, !at.key)
	case form.single:
		w.single(text, column, !at.key)
	default:
		w.double(text, column, !at.key)
	}
}

// plain writes text as it is; each single space may become a line's end.
func (w *writer) plain(text string, column int, split bool) {
	if !w.afterSpace {
		w.write(" ")
	}
	w.afterSpace, w.onlyIndent = false, false
	for _, run := range runs(text) {
		if run == " " && split && w.column > width {
			w.indent(column)
			w.afterSpace, w.onlyIndent = false, false
			continue
		}
		w.write(run)
	}
}

// single writes text in single quotes, where n line ends are written as n+1.
func (w *writer) single(text string, column int, split bool) {
	w.indicator("'", true, false)
	parts := runs(text)
	for i, run := range parts {
		switch {
		case run[0] == '\n':
			for range len(run) + 1 {
				w.lineBreak()
			}
			w.indent(column)
		case run == " " && split && w.column > width && i > 0 && i < len(parts)-1:
			w.indent(column)
		default:
			w.write(strings.ReplaceAll(run, "'", "''"))
		}
	}
	w.indicator("'", false, false)
}

// runs cuts a text into runs of spaces, of line ends and of all else.
func runs(text string) []string {
	var out []string
	kind := func(c byte) byte {
		if c == ' ' || c == '\n' {
			return c
		}
		return 0
	}
	start := 0
	for i := 1; i <= len(text); i++ {
		if i == len(text) || kind(text[i]) != kind(text[start]) {
			out = append(out, text[start:i])
			start = i
		}
	}
	return out
}

// double writes text in double quotes. A line that is full ends in a backslash
// before a space or after an escape; a space that the next begins with has one
// too.
func (w *writer) double(text string, column int, split bool) {
	w.indicator(`"`, true, false)
	chars := pyjson.Runes(text)
	pending := ""
	for i, c := range chars {
		escaped := c < ' ' || c > '~' || c == '"' || c == '\\'
		end, next := w.column+len(pending), c
		if escaped {
			w.write(pending + escape(c))
			pending = ""
			// PyYAML counts one less after an escape.
			end = w.column - 1
		}
		full := end > width && (escaped || c == ' ' || pending == "")
		if full && split && i > 0 && i < len(chars)-1 {
			w.write(pending + `\`)
			pending = ""
			w.indent(column)
			w.afterSpace, w.onlyIndent = false, false
			if escaped {
				next = chars[i+1]
			}
			if next == ' ' {
				w.write(`\`)
			}
		}
		if !escaped {
			pending += string(c)
		}
	}
	w.write(pending)
	w.indicator(`"`, false, false)
}

func escape(c rune) string {
	const letters = "\x000\x07a\x08b\tt\nn\vv\ff\rr\x1be\"\"\\\\"
	if i := strings.IndexRune(letters, c); c < 0x7f && i >= 0 && i%2 == 0 {
		return `\` + letters[i+1:i+2]
	}
	switch {
	case c == 0x85:
		return `\N`
	case c == 0xa0:
		return `\_`
	case c == 0x2028:
		return `\L`
	case c == 0x2029:
		return `\P`
	case c <= 0xff:
		return fmt.Sprintf(`\x%02X`, c)
	case c <= 0xffff:
		return fmt.Sprintf(`\u%04X`, c)
	}
	return fmt.Sprintf(`\U%08X`, c)
}

const (
	lineBreaks = "\n\u0085\u2028\u2029"
	blanks     = "\x00 \t\r" + lineBreaks
)

// form says which forms can hold a text.
type form struct {
	plain, single bool
	// blockOnly is true if text that is plain is not so in a flow collection.
	blockOnly bool
}

// analyze has the rules of YAML 1.1 for text without and in single quotes.
func analyze(text string) form {
	if text == "" {
		return form{single: true}
	}
	f := form{plain: !strings.HasPrefix(text, "---") && !strings.HasPrefix(text, "..."), single: true}
	if strings.ContainsAny(text[:1], " \n") || strings.ContainsAny(text[len(text)-1:], " \n") {
		f.plain = false
	}
	before := ' '
	chars := []rune(text)
	for i, c := range chars {
		last := i+1 == len(chars) || strings.ContainsRune(blanks, chars[i+1])
		first := i == 0
		switch {
		case c == '\n':
			f.plain = false
			f.single = f.single && before != ' ' || first
		case c < ' ' || c > '~':
			return form{}
		case c == ' ' && before == '\n':
			f.single = false
		case first && strings.ContainsRune("#,[]{}&*!|>'\"%@`", c),
			(c == ':' || first && strings.ContainsRune("?-", c)) && last,
			c == '#' && strings.ContainsRune(blanks, before):
			f.plain = false
		case strings.ContainsRune(",?[]{}:", c):
			f.blockOnly = true
		}
		before = c
	}
	return f
}

// otherType matches what YAML 1.1 reads as no text: null, merge and default
// keys, booleans, whole and other numbers, also to the base of 60, and dates.
var otherType = pattern.New(`^(?:~|null|Null|NULL||<<|=` +
	`|yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF` +
	`|[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|[1-9][0-9_]*(?::[0-5]?[0-9])+)` +
	`|[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?` +
	`|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)` +
	`|[0-9]{4}-[0-9]{2}-[0-9]{2}` +
	`|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?` +
	`(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?)$`)
