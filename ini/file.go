package ini

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ossify/ossify/pattern"
)

// File is an INI file whose lines stay as they are, unless they are set.
type File struct {
	bom   bool
	lines []line
}

type line struct {
	text string
	kind kind
	// name is that of a section or an option, as it is written.
	name string
}

// kind says what a line is part of: that decides where new options go, and what
// an option's new value replaces.
type kind int

const (
	// outside is a comment or an empty line before a section or the end.
	outside kind = iota
	header
	option
	// continued is part of the option above it.
	continued
	// inside is a comment or an empty line between the options of a section.
	inside
)

// Parse reads a text whose line ends are "\n". An error names the line.
func Parse(text string) (*File, error) {
	f := &File{}
	if text == "" {
		return f, nil
	}
	text, f.bom = strings.CutPrefix(text, "\ufeff")
	inSection, inOption, pending := false, false, 0
	for i, text := range strings.Split(text, "\n") {
		l := line{text: text}
		switch l.kind, l.name = classify(text); {
		case l.kind == outside:
			pending++
			f.lines = append(f.lines, l)
			continue
		case l.kind == header:
			inSection, inOption = true, false
		case !inSection:
			return nil, fmt.Errorf("line %d, %q, comes before the first section", i+1, text)
		case l.kind == option:
			inOption = true
			f.mark(pending, inside)
		case l.kind == continued && inOption:
			f.mark(pending, continued)
		default:
			return nil, fmt.Errorf("line %d, %q, is no section, option or comment", i+1, text)
		}
		pending = 0
		f.lines = append(f.lines, l)
	}
	return f, nil
}

// mark gives the last n lines another kind.
func (f *File) mark(n int, k kind) {
	for i := len(f.lines) - n; i < len(f.lines); i++ {
		f.lines[i].kind = k
	}
}

// unknown is no line of an INI file.
const unknown kind = -1

// classify tells a line by itself. A line that begins with "rem" is a comment.
func classify(text string) (k kind, name string) {
	text = trimRight(text)
	switch {
	case text == "", strings.ContainsAny(text[:1], ";#"), len(text) >= 3 && strings.EqualFold(text[:3], "rem"):
		return outside, ""
	}
	if text[0] == '[' {
		name, rest, ok := strings.Cut(text[1:], "]")
		rest = strings.TrimLeftFunc(rest, unicode.IsSpace)
		if ok && name != "" && (rest == "" || strings.ContainsAny(rest[:1], ";#")) {
			return header, name
		}
		return unknown, ""
	}
	if first, _ := utf8.DecodeRuneInString(text); unicode.IsSpace(first) {
		return continued, ""
	}
	if end := strings.IndexAny(text, ":="); end > 0 {
		return option, trimRight(text[:end])
	}
	return unknown, ""
}

func trimRight(s string) string { return strings.TrimRightFunc(s, unicode.IsSpace) }

// AddSection adds a section at the end, unless there is one of that name.
func (f *File) AddSection(name string) {
	for _, l := range f.lines {
		if l.kind == header && l.name == name {
			return
		}
	}
	if len(f.lines) > 0 {
		f.lines = append(f.lines, line{kind: outside})
	}
	f.lines = append(f.lines, line{text: "[" + name + "]", kind: header, name: name})
}

// Set gives an option of a section that is there its value. It changes the last
// option of that name, in any case of letters, or adds one after the section's
// last.
func (f *File) Set(section, name, value string) error {
	if strings.Contains(reference().ReplaceAllString(value, ""), "%") {
		return fmt.Errorf("value %q of option %s has a %% that begins no %%(NAME)s", value, name)
	}
	found, end := -1, -1
	current := ""
	for i, l := range f.lines {
		if l.kind == header {
			current = l.name
		}
		if current != section || l.kind == outside {
			continue
		}
		end = i + 1
		if l.kind == option && strings.EqualFold(l.name, name) {
			found = i
		}
	}
	if end < 0 {
		return fmt.Errorf("there is no section %s", section)
	}
	values := strings.Split(value, "\n")
	if found < 0 {
		f.replace(end, end, line{name + " = " + values[0], option, name}, values[1:], "        ")
		return nil
	}
	indent := "        "
	end = found + 1
	for end < len(f.lines) && f.lines[end].kind == continued {
		end++
	}
	for _, l := range f.lines[found+1 : end] {
		if n := len(l.text) - len(strings.TrimLeftFunc(l.text, unicode.IsSpace)); n > 0 && n < len(l.text) {
			indent = strings.Repeat(" ", utf8.RuneCountInString(l.text[:n]))
			break
		}
	}
	old := f.lines[found]
	f.replace(found, end, line{withValue(old.text, values[0]), option, old.name}, values[1:], indent)
	return nil
}

// reference finds what stands for another option's value.
var reference = pattern.New(`%\([^)]+\)s`)

// replace puts an option in the place of lines: its first line, and the other
// lines of its value.
func (f *File) replace(from, to int, first line, rest []string, indent string) {
	lines := []line{first}
	for _, text := range rest {
		if strings.TrimSpace(text) == "" {
			text = ""
		} else {
			text = indent + text
		}
		lines = append(lines, line{text: text, kind: continued})
	}
	f.lines = slices.Replace(f.lines, from, to, lines...)
}

// withValue is an option's line with another value. What stands before the
// value stays, and so does a comment after it, at its column where it fits.
func withValue(text, value string) string {
	text = trimRight(text)
	start := strings.IndexAny(text, ":=") + 1
	start += len(text[start:]) - len(strings.TrimLeftFunc(text[start:], unicode.IsSpace))
	out := text[:start] + value
	semicolon := start + strings.IndexByte(text[start:], ';')
	before, _ := utf8.DecodeLastRuneInString(text[start:max(start, semicolon)])
	if semicolon <= start || !unicode.IsSpace(before) {
		return out
	}
	out += " "
	if gap := utf8.RuneCountInString(text[:semicolon]) - utf8.RuneCountInString(out); gap > 0 {
		out += strings.Repeat(" ", gap)
	}
	return out + text[semicolon:]
}

// String is the file's text. It ends as the text that was read did.
func (f *File) String() string {
	var out strings.Builder
	if f.bom {
		out.WriteString("\ufeff")
	}
	for i, l := range f.lines {
		if i > 0 {
			out.WriteByte('\n')
		}
		out.WriteString(l.text)
	}
	return out.String()
}
