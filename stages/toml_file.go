package stages

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	"github.com/ossify/ossify/pyjson"
)

// readTOML reads a TOML file. Tables are objects whose keys keep their order.
func readTOML(path string) (*pyjson.Object, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var values map[string]any
	meta, err := toml.Decode(string(data), &values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	order := tomlOrder{}
	for _, key := range meta.Keys() {
		order.add(key)
	}
	return order.table(values, ""), nil
}

// tomlOrder holds the keys of each table, by its dotted path, in the order in
// which the file first names them.
type tomlOrder map[string][]string

func (o tomlOrder) add(key toml.Key) {
	path := ""
	for _, part := range key {
		if !slices.Contains(o[path], part) {
			o[path] = append(o[path], part)
		}
		path += "." + strconv.Quote(part)
	}
}

func (o tomlOrder) table(values map[string]any, path string) *pyjson.Object {
	out := pyjson.NewObject()
	for _, key := range o[path] {
		if value, ok := values[key]; ok {
			out.Set(key, o.value(value, path+"."+strconv.Quote(key)))
		}
	}
	return out
}

func (o tomlOrder) value(value any, path string) any {
	switch v := value.(type) {
	case map[string]any:
		return o.table(v, path)
	case []map[string]any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = o.table(v[i], path)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = o.value(v[i], path)
		}
		return out
	}
	return value
}

// dumpTOML writes a table as the Python module tomli_w does.
func dumpTOML(table *pyjson.Object) string {
	var out strings.Builder
	dumpTOMLTable(&out, table, "", false)
	return out.String()
}

// dumpTOMLTable writes a table: first its values, then its tables, each below a header
// with its whole name. A table that holds nothing but tables has no header.
func dumpTOMLTable(out *strings.Builder, t *pyjson.Object, name string, inArray bool) {
	type child struct {
		key     string
		table   *pyjson.Object
		inArray bool
	}
	var tables []child
	var literals []string
	for _, key := range t.Keys {
		switch v := t.Values[key].(type) {
		case *pyjson.Object:
			tables = append(tables, child{key, v, false})
		case []any:
			if !needsTOMLTables(v) {
				literals = append(literals, key)
				break
			}
			for _, item := range v {
				tables = append(tables, child{key, item.(*pyjson.Object), true})
			}
		default:
			literals = append(literals, key)
		}
	}
	begun := true
	switch {
	case inArray:
		fmt.Fprintf(out, "[[%s]]\n", name)
	case name != "" && (len(literals) > 0 || len(tables) == 0):
		fmt.Fprintf(out, "[%s]\n", name)
	default:
		begun = len(literals) > 0
	}
	for _, key := range literals {
		fmt.Fprintf(out, "%s = %s\n", tomlKey(key), tomlLiteral(t.Values[key], 0))
	}
	for _, c := range tables {
		if begun {
			out.WriteByte('\n')
		}
		begun = true
		full := tomlKey(c.key)
		if name != "" {
			full = name + "." + full
		}
		dumpTOMLTable(out, c.table, full, c.inArray)
	}
}

// needsTOMLTables says whether an array is one of tables, of which one at least is
// too long for a line of 100 characters.
func needsTOMLTables(array []any) bool {
	long := false
	for _, item := range array {
		table, ok := item.(*pyjson.Object)
		if !ok {
			return false
		}
		text := tomlLiteral(table, 0)
		long = long || utf8.RuneCountInString(text) > 95 || strings.Contains(text, "\n")
	}
	return long
}

const tomlIndent = "    "

func tomlLiteral(value any, depth int) string {
	switch v := value.(type) {
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return tomlFloat(v)
	case time.Time:
		return tomlTime(v)
	case string:
		return tomlString(v)
	case []any:
		if len(v) == 0 {
			return "[]"
		}
		indent := strings.Repeat(tomlIndent, depth)
		text := "[\n"
		for _, item := range v {
			text += indent + tomlIndent + tomlLiteral(item, depth+1) + ",\n"
		}
		return text + indent + "]"
	case *pyjson.Object:
		if len(v.Keys) == 0 {
			return "{}"
		}
		items := make([]string, len(v.Keys))
		for i, key := range v.Keys {
			items[i] = tomlKey(key) + " = " + tomlLiteral(v.Values[key], 0)
		}
		return "{ " + strings.Join(items, ", ") + " }"
	}
	panic(fmt.Sprintf("internal error: TOML cannot hold %T", value))
}

// tomlTime spells a time or a part of one as Python does.
func tomlTime(t time.Time) string {
	fraction := ""
	if micro := t.Nanosecond() / 1000; micro > 0 {
		fraction = ".000000"
	}
	// The library says in the location's name what the file has.
	switch t.Location().String() {
	case "date-local":
		return t.Format("2006-01-02")
	case "time-local":
		return t.Format("15:04:05" + fraction)
	case "datetime-local":
		return t.Format("2006-01-02 15:04:05" + fraction)
	}
	return t.Format("2006-01-02 15:04:05" + fraction + "-07:00")
}

// tomlFloat spells a number as Python does.
func tomlFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	return pythonNumber(json.Number(strconv.FormatFloat(f, 'e', -1, 64)))
}

// tomlKey quotes a key where it must be.
func tomlKey(key string) string {
	for _, c := range key {
		if !isAlnum(c) && c != '-' && c != '_' {
			return tomlString(key)
		}
	}
	if key == "" {
		return `""`
	}
	return key
}

func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\b':
			b.WriteString(`\b`)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\f':
			b.WriteString(`\f`)
		case c == '\r':
			b.WriteString(`\r`)
		case c < ' ' && c != '\t' || c == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
