package ini

import (
	"fmt"
	"strings"
)

// Config is an INI file that is made from nothing.
type Config struct{ sections []*Section }

// Section is a section of a Config.
type Section struct {
	name    string
	options []setting
}

type setting struct{ name, value string }

// Has says whether there is a section of that name.
func (c *Config) Has(name string) bool {
	for _, s := range c.sections {
		if s.name == name {
			return true
		}
	}
	return false
}

// Section returns the section of that name, which is added if there is none.
func (c *Config) Section(name string) *Section {
	for _, s := range c.sections {
		if s.name == name {
			return s
		}
	}
	s := &Section{name: name}
	c.sections = append(c.sections, s)
	return s
}

// Set adds an option, or replaces its value where it stands.
func (s *Section) Set(name, value string) error {
	rest := reference().ReplaceAllString(strings.ReplaceAll(value, "%%", ""), "")
	if strings.Contains(rest, "%") {
		return fmt.Errorf("value %q of option %s has a single %%: write %%%% where one is meant", value, name)
	}
	for i := range s.options {
		if s.options[i].name == name {
			s.options[i].value = value
			return nil
		}
	}
	s.options = append(s.options, setting{name, value})
	return nil
}

// String is the file's text, without spaces around the equals signs. An empty
// line follows each section.
func (c *Config) String() string {
	var out strings.Builder
	for _, s := range c.sections {
		fmt.Fprintf(&out, "[%s]\n", s.name)
		for _, o := range s.options {
			fmt.Fprintf(&out, "%s=%s\n", o.name, strings.ReplaceAll(o.value, "\n", "\n\t"))
		}
		out.WriteByte('\n')
	}
	return out.String()
}
