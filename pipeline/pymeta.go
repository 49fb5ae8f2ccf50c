package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ossify/ossify/pyjson"
)

// pythonMeta reads the description of a module that has it in its own Python
// code: the docstring, and at the top level SCHEMA and SCHEMA_2, strings with
// the members of a JSON object, and CAPABILITIES, a list of strings
// (osbuild/meta.py, ModuleInfo).
func pythonMeta(source string) (Meta, error) {
	var meta Meta
	if line, _, _ := strings.Cut(source, "\n"); !strings.Contains(line, "python") {
		return meta, errors.New("it is no Python program")
	}
	p := &python{source: source}
	found := false
	for first := true; p.i < len(p.source); p.nextStatement() {
		if p.blank() {
			continue
		}
		doc, isDoc := p.str()
		if isDoc && first {
			meta.Summary, _, _ = strings.Cut(strings.TrimSpace(doc), "\n")
		}
		first = false
		if isDoc {
			continue
		}
		name, ok := p.assignment()
		if !ok {
			continue
		}
		var err error
		switch name {
		case "SCHEMA":
			meta.Schema, err = p.schema()
			found = true
		case "SCHEMA_2":
			meta.Schema2, err = p.schema()
			found = true
		case "CAPABILITIES":
			meta.Capabilities = p.list()
		}
		if err != nil {
			return meta, fmt.Errorf("%s: %w", name, err)
		}
	}
	if !found {
		return meta, errors.New("it has no SCHEMA")
	}
	return meta, nil
}

// python walks over the statements of Python code; i is where it is.
type python struct {
	source string
	i      int
}

func (p *python) rest() string { return p.source[p.i:] }

// blank says that the line at i is no statement of the top level.
func (p *python) blank() bool { return strings.ContainsRune(" \t\r\n#", rune(p.source[p.i])) }

// nextStatement moves to the line after the statement at i, which ends at the
// first newline that is in no string and no bracket.
func (p *python) nextStatement() {
	depth := 0
	for p.i < len(p.source) {
		if _, ok := p.str(); ok {
			continue
		}
		c := p.source[p.i]
		p.i++
		switch c {
		case '#':
			if end := strings.IndexByte(p.rest(), '\n'); end >= 0 {
				p.i += end
			} else {
				p.i = len(p.source)
			}
		case '\\':
			p.i = min(p.i+1, len(p.source))
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth--
		case '\n':
			if depth <= 0 {
				return
			}
		default:
			// A letter may not be taken for a string's prefix: skip the word.
			for isWord(c) && p.i < len(p.source) && isWord(p.source[p.i]) {
				p.i++
			}
		}
	}
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// assignment reads NAME = and leaves i at the value.
func (p *python) assignment() (name string, ok bool) {
	rest := p.rest()
	n := 0
	for n < len(rest) && isWord(rest[n]) {
		n++
	}
	after := strings.TrimLeft(rest[n:], " \t")
	if n == 0 || !strings.HasPrefix(after, "=") || strings.HasPrefix(after, "==") {
		return "", false
	}
	p.i += len(rest) - len(after) + 1
	p.space("")
	return rest[:n], true
}

// space skips blanks and the given characters.
func (p *python) space(also string) {
	p.i += len(p.rest()) - len(strings.TrimLeft(p.rest(), " \t"+also))
}

// schema reads a constant string; anything else is no schema.
func (p *python) schema() (json.RawMessage, error) {
	between := "" // newlines part strings only in brackets
	if strings.HasPrefix(p.rest(), "(") {
		between = "(\r\n"
	}
	p.space(between)
	text, ok := p.str()
	if !ok {
		return nil, nil
	}
	for ok { // strings side by side are one
		p.space(between)
		var more string
		more, ok = p.str()
		text += more
	}
	doc := json.RawMessage("{" + text + "}")
	if _, err := pyjson.Decode(doc, nil); err != nil {
		return nil, err
	}
	return doc, nil
}

// list reads the strings between brackets.
func (p *python) list() []string {
	var items []string
	for p.space("([{,\r\n"); ; p.space(",\r\n") {
		if strings.HasPrefix(p.rest(), "#") {
			line, _, _ := strings.Cut(p.rest(), "\n")
			p.i += len(line)
			continue
		}
		s, ok := p.str()
		if !ok {
			return items
		}
		items = append(items, s)
	}
}

// str reads the string literal at i, if there is one.
func (p *python) str() (value string, ok bool) {
	rest := p.rest()
	n := 0
	for n < len(rest) && n < 3 && strings.IndexByte("rRbBuUfF", rest[n]) >= 0 {
		n++
	}
	if n == len(rest) || rest[n] != '"' && rest[n] != '\'' {
		return "", false
	}
	raw := strings.ContainsAny(rest[:n], "rR")
	quote := rest[n : n+1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(rest[n:], triple) {
		quote = triple
	}
	i := n + len(quote)
	var b strings.Builder
	for i < len(rest) && !strings.HasPrefix(rest[i:], quote) {
		if rest[i] != '\\' || i+1 == len(rest) {
			b.WriteByte(rest[i])
			i++
			continue
		}
		if raw {
			b.WriteString(rest[i : i+2])
			i += 2
			continue
		}
		text, size := pythonEscape(rest[i:])
		b.WriteString(text)
		i += size
	}
	p.i += min(i+len(quote), len(rest))
	return b.String(), true
}

// pythonEscape reads the escape sequence at the start of s. Unknown ones stay
// as they are.
func pythonEscape(s string) (text string, size int) {
	if i := strings.IndexByte(`\'"abfnrtv`, s[1]); i >= 0 {
		return "\\'\"\a\b\f\n\r\t\v"[i : i+1], 2
	}
	switch c := s[1]; {
	case c == '\n':
		return "", 2
	case c >= '0' && c <= '7':
		n := 2
		for n < len(s) && n < 4 && s[n] >= '0' && s[n] <= '7' {
			n++
		}
		v, _ := strconv.ParseUint(s[1:n], 8, 16) // octal digits only
		return string(rune(v)), n
	}
	if digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[1]]; digits > 0 && len(s) >= 2+digits {
		if v, err := strconv.ParseUint(s[2:2+digits], 16, 32); err == nil {
			return string(rune(v)), 2 + digits
		}
	}
	return s[:2], 2
}
