package stages

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
)

// casePart is one part of a case file.
type casePart struct {
	name string
	data string
}

// caseFile is a case in txtar form.
type caseFile struct {
	comment string
	parts   []casePart
}

// readCase reads a case file and refuses parts that do not exist.
func readCase(path string) (*caseFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &caseFile{}
	for _, line := range strings.SplitAfter(string(data), "\n") {
		text := strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(text, "-- ") && strings.HasSuffix(text, " --") && len(text) > 6:
			c.parts = append(c.parts, casePart{name: text[3 : len(text)-3]})
		case len(c.parts) == 0:
			c.comment += line
		default:
			c.parts[len(c.parts)-1].data += line
		}
	}
	return c, c.check()
}

func (c *caseFile) check() error {
	if strings.TrimSpace(c.comment) == "" {
		return errors.New("the case does not begin with a sentence that says what it shows")
	}
	ends := 0
	names := map[string]bool{}
	for _, part := range c.parts {
		if names[part.name] {
			return fmt.Errorf("part %q is there twice", part.name)
		}
		names[part.name] = true
		switch kind, _, _ := strings.Cut(part.name, " "); kind {
		case "want", "refused", "error":
			ends++
		case "options.json", "stage.json", "args.json", "before", "tools", "missing", "buildroot", "standin", "ignore", "archive", "deb", "rpm",
			"show", "shown", "differs":
		default:
			return fmt.Errorf("there is no part %q", part.name)
		}
	}
	if ends != 1 {
		return errors.New("exactly one of the parts want, refused and error must be there")
	}
	return nil
}

// get returns a part's data, and whether it is there.
func (c *caseFile) get(name string) (string, bool) {
	for _, part := range c.parts {
		if part.name == name {
			return part.data, true
		}
	}
	return "", false
}

// lines returns the lines of a part that are not empty.
func (c *caseFile) lines(name string) []string {
	data, _ := c.get(name)
	var out []string
	for _, line := range strings.Split(data, "\n") {
		if strings.TrimSpace(line) != "" {
			out = append(out, line)
		}
	}
	return out
}

// treeLines reads the tree lines of a part.
func (c *caseFile) treeLines(name string) ([]treeLine, error) {
	var out []treeLine
	for _, text := range c.lines(name) {
		line, err := parseTreeLine(text)
		if err != nil {
			return nil, fmt.Errorf("part %q, line %q: %w", name, text, err)
		}
		out = append(out, line)
	}
	return out, nil
}

// set replaces a part or adds it at the end.
func (c *caseFile) set(name, data string) {
	for i := range c.parts {
		if c.parts[i].name == name {
			c.parts[i].data = data
			return
		}
	}
	c.parts = append(c.parts, casePart{name, data})
}

// write writes the case back.
func (c *caseFile) write(path string) error {
	var out bytes.Buffer
	out.WriteString(c.comment)
	for _, part := range c.parts {
		fmt.Fprintf(&out, "-- %s --\n%s", part.name, part.data)
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}
