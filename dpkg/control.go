package dpkg

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Field is one field of a control paragraph. Value keeps the line breaks and
// the leading blanks of continuation lines, without the final line break.
type Field struct{ Name, Value string }

// Paragraph is a control paragraph in the order of its file.
type Paragraph []Field

// Get returns the value of a field without blanks around it, "" if it is absent.
// Names are compared without regard to case (deb-control(5)).
func (p Paragraph) Get(name string) string {
	for _, f := range p {
		if strings.EqualFold(f.Name, name) {
			return strings.TrimSpace(f.Value)
		}
	}
	return ""
}

// ParseParagraphs parses control data (deb822(5)). It refuses lines that are
// neither a field nor a continuation, and fields that stand twice.
func ParseParagraphs(data []byte) ([]Paragraph, error) {
	var all []Paragraph
	var cur Paragraph
	seen := map[string]bool{}
	scan := bufio.NewScanner(bytes.NewReader(data))
	scan.Buffer(nil, 4<<20)
	for n := 1; scan.Scan(); n++ {
		line := scan.Text()
		switch {
		case strings.TrimSpace(line) == "":
			if cur != nil {
				all, cur, seen = append(all, cur), nil, map[string]bool{}
			}
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if cur == nil {
				return nil, fmt.Errorf("control data, line %d: continuation of no field", n)
			}
			cur[len(cur)-1].Value += "\n" + line
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok || name == "" || strings.ContainsAny(name, " \t") {
				return nil, fmt.Errorf("control data, line %d: %q is not a field", n, line)
			}
			key := strings.ToLower(name)
			if seen[key] {
				return nil, fmt.Errorf("control data, line %d: field %s stands twice", n, name)
			}
			seen[key] = true
			cur = append(cur, Field{name, strings.TrimLeft(value, " \t")})
		}
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("control data: %w", err)
	}
	if cur != nil {
		all = append(all, cur)
	}
	return all, nil
}

var errNoControl = errors.New("package has no control file")
