package stages

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pattern"
)

type sysusersOptions struct {
	Config *struct {
		PathPrefix string          `json:"path-prefix"`
		Filename   string          `json:"filename"`
		Entries    []sysusersEntry `json:"entries"`
	} `json:"config"`
}

// sysusersEntry is a line of sysusers.d(5); a field that is nil is "-".
type sysusersEntry struct {
	Type  string  `json:"type"`
	Name  string  `json:"name"`
	ID    *string `json:"id"`
	Gecos *string `json:"gecos"`
	Home  *string `json:"home"`
	Shell *string `json:"shell"`
}

// systemdSysusersD writes a file of sysusers.d.
func systemdSysusersD(_ context.Context, args *module.Args, options sysusersOptions) error {
	config := options.Config
	if config == nil || len(config.Entries) == 0 {
		return errors.New("options lack config, or it has no entries")
	}
	var out strings.Builder
	for i, entry := range config.Entries {
		if err := entry.check(); err != nil {
			return fmt.Errorf("entry %d (%s %s): %w", i, entry.Type, entry.Name, err)
		}
		out.WriteString(entry.line())
	}
	dir := "/usr/lib/sysusers.d/"
	if config.PathPrefix == "etc" {
		dir = "/etc/sysusers.d/"
	}
	if err := writeFile(args, dir+config.Filename, out.String()); err != nil {
		return fmt.Errorf("write users and groups: %w", err)
	}
	return nil
}

// sysuserName is what a user's or group's name may be.
var sysuserName = pattern.New(`\A([a-z]+([-_][a-zA-Z0-9_-]{0,30})?|-)\z`)

// check has the rules of which a schema cannot say anything.
func (e *sysusersEntry) check() error {
	if e.Type == "r" && e.Name != "-" {
		return errors.New(`the name of a range must be "-"`)
	}
	if !sysuserName().MatchString(e.Name) {
		return fmt.Errorf("%q is no name of a user or group", e.Name)
	}
	if err := e.checkID(); err != nil {
		return err
	}
	if e.Type == "u" {
		return nil
	}
	for name, value := range map[string]*string{"gecos": e.Gecos, "home": e.Home, "shell": e.Shell} {
		if text := orDash(value); text != "" && text != "-" {
			return fmt.Errorf("%s is for entries of type u only", name)
		}
	}
	return nil
}

func (e *sysusersEntry) checkID() error {
	id, separator := orDash(e.ID), ":"
	switch {
	case e.Type == "m":
		if !sysuserName().MatchString(id) {
			return fmt.Errorf("the id of a member is the group's name, which %q is not", id)
		}
		return nil
	case e.Type == "r":
		separator = "-"
	case id == "-":
		return nil
	}
	parts := strings.Split(id, separator)
	if len(parts) > 2 {
		return fmt.Errorf("id %q has more than two parts", id)
	}
	for _, part := range parts {
		n, err := strconv.ParseInt(strings.TrimSpace(part), 10, 64)
		if err != nil {
			return fmt.Errorf("id %q: %q is no number", id, part)
		}
		// Both are (uid_t) -1 to some part of the system.
		if n == 65535 || n == 4294967295 {
			return fmt.Errorf("id %d is reserved", n)
		}
	}
	return nil
}

func (e *sysusersEntry) line() string {
	gecos := orDash(e.Gecos)
	if gecos != "-" {
		gecos = `"` + gecos + `"`
	}
	return strings.TrimSpace(strings.Join([]string{e.Type, e.Name, orDash(e.ID), gecos, orDash(e.Home), orDash(e.Shell)}, " ")) + "\n"
}

func orDash(text *string) string {
	if text == nil {
		return "-"
	}
	return *text
}
