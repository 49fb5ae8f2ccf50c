package selinux

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/dlclark/regexp2"
	"golang.org/x/sys/unix"
)

// none is the context of paths that are to have no label.
const none = "<<none>>"

// Contexts are the rules of a file_contexts (file_contexts(5)). They are for one
// goroutine at a time.
type Contexts struct {
	// rules in the order of libselinux: the last one that matches decides.
	rules []rule
	// local and dist replace the beginning of paths (file_contexts.subs,
	// file_contexts.subs_dist); the first that matches counts.
	local, dist []substitution
	// dir is the directory of the last path that was looked up, near the rules
	// that can match there: paths come in the order of a walk.
	dir  string
	near []*rule
}

// rule says which context the paths get that match.
type rule struct {
	// prefix begins every path that matches, text is the pattern as it stands.
	prefix, text string
	// pattern is text once it was needed: most never are.
	pattern *regexp2.Regexp
	// kind is the file type in the bits of S_IFMT, 0 for any.
	kind    uint32
	context string
}

type substitution struct{ from, to string }

// Load reads the rules in the file at path and those beside it: .homedirs and
// .local, .subs and .subs_dist. The file has to be there, the others need not.
// open opens a file by the path it is given.
func Load(path string, open func(path string) (fs.File, error)) (*Contexts, error) {
	c := &Contexts{}
	var exact []rule
	for _, suffix := range []string{"", ".homedirs", ".local"} {
		err := eachLine(path+suffix, open, func(fields []string) error {
			r, err := parseRule(fields)
			if err != nil {
				return err
			}
			// Patterns that are plain paths go before all others.
			if r.prefix == r.plain() {
				exact = append(exact, r)
			} else {
				c.rules = append(c.rules, r)
			}
			return nil
		})
		if err != nil && (suffix == "" || !errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
	}
	c.rules = append(c.rules, exact...)
	for suffix, list := range map[string]*[]substitution{".subs": &c.local, ".subs_dist": &c.dist} {
		err := eachLine(path+suffix, open, func(fields []string) error {
			if len(fields) >= 2 {
				*list = append([]substitution{{fields[0], fields[1]}}, *list...) // the last line comes first
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return c, nil
}

// eachLine calls use with the words of each line that is no comment.
func eachLine(path string, open func(string) (fs.File, error), use func([]string) error) error {
	f, err := open(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if err := use(fields); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// parseRule reads PATTERN [TYPE] CONTEXT.
func parseRule(fields []string) (rule, error) {
	if len(fields) < 2 {
		return rule{}, fmt.Errorf("expected PATTERN [TYPE] CONTEXT, found %q", strings.Join(fields, " "))
	}
	r := rule{text: fields[0], context: fields[1]}
	if len(fields) > 2 {
		kind, ok := fileType(fields[1])
		if !ok {
			return rule{}, fmt.Errorf("unknown file type %q", fields[1])
		}
		r.kind, r.context = kind, fields[2]
	}
	r.prefix = literalPrefix(r.text)
	return r, nil
}

func (r *rule) match(path string) (bool, error) {
	if r.pattern == nil {
		// By itself first: brackets of its own must not close ours.
		_, err := regexp2.Compile(bytewise(r.text), regexp2.Singleline)
		var pattern *regexp2.Regexp
		if err == nil {
			pattern, err = regexp2.Compile(bytewise("^(?:"+r.text+")$"), regexp2.Singleline)
		}
		if err != nil {
			return false, fmt.Errorf("pattern %s: %w", r.text, err)
		}
		r.pattern = pattern
	}
	match, err := r.pattern.MatchString(bytewise(path))
	if err != nil {
		return false, fmt.Errorf("match %s with %s: %w", path, r.text, err)
	}
	return match, nil
}

// bytewise makes a character of each byte, as libselinux sees names and patterns.
func bytewise(s string) string {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

// fileType reads the middle column, which names types as ls(1) does.
func fileType(text string) (kind uint32, ok bool) {
	switch text {
	case "--":
		return unix.S_IFREG, true
	case "-d":
		return unix.S_IFDIR, true
	case "-l":
		return unix.S_IFLNK, true
	case "-p":
		return unix.S_IFIFO, true
	case "-s":
		return unix.S_IFSOCK, true
	case "-c":
		return unix.S_IFCHR, true
	case "-b":
		return unix.S_IFBLK, true
	}
	return 0, false
}

// literalPrefix returns what every path begins with that the pattern matches.
func literalPrefix(pattern string) string {
	// A part of an alternative need not be there.
	depth := 0
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\', '[':
			// What a class holds does not matter, only that nothing is taken for more.
			i++
		case '(':
			depth++
		case ')':
			depth--
		case '|':
			if depth <= 0 {
				return ""
			}
		}
	}
	var out []byte
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		switch {
		case strings.IndexByte("?*{", c) >= 0 && len(out) > 0:
			return string(out[:len(out)-1]) // the character before may be missing
		case strings.IndexByte(".^$?*+|[({", c) >= 0:
			return string(out)
		case c == '\\':
			if i++; i == len(pattern) || isAlnum(pattern[i]) {
				return string(out) // a class such as \d
			}
			c = pattern[i]
		}
		out = append(out, c)
	}
	return string(out)
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// plain is the only path that a pattern without special characters matches; it
// is not the rule's prefix if there are some.
func (r *rule) plain() string {
	escaped := false
	var out []byte
	for i := 0; i < len(r.text); i++ {
		switch c := r.text[i]; {
		case escaped:
			out, escaped = append(out, c), false
		case c == '\\':
			escaped = true
		case strings.IndexByte(".^$?*+|[({", c) >= 0:
			return r.prefix + "\x00"
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

// Lookup returns the context of a path with the mode of stat(2), of which the
// file type counts; ok is false if it is to have none.
func (c *Contexts) Lookup(path string, mode uint32) (context string, ok bool, err error) {
	if s, found := substitute(c.local, path); found {
		path = s
	}
	if s, found := substitute(c.dist, path); found {
		path = s
	}
	kind := mode & unix.S_IFMT
	for _, r := range c.nearby(path) {
		if r.kind != 0 && r.kind != kind || !strings.HasPrefix(path, r.prefix) {
			continue
		}
		match, err := r.match(path)
		if err != nil {
			return "", false, err
		}
		if match {
			return r.context, r.context != none, nil
		}
	}
	return "", false, nil
}

// nearby returns the rules that can match a path, the last one first.
func (c *Contexts) nearby(path string) []*rule {
	dir := path[:strings.LastIndexByte(path, '/')+1]
	if c.near != nil && dir == c.dir {
		return c.near
	}
	c.dir, c.near = dir, c.near[:0]
	for i := len(c.rules) - 1; i >= 0; i-- {
		if r := &c.rules[i]; strings.HasPrefix(r.prefix, dir) || strings.HasPrefix(dir, r.prefix) {
			c.near = append(c.near, r)
		}
	}
	return c.near
}

func substitute(list []substitution, path string) (string, bool) {
	for _, s := range list {
		rest, ok := strings.CutPrefix(path, s.from)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		if s.to == "/" {
			rest = strings.TrimPrefix(rest, "/")
		}
		return s.to + rest, true
	}
	return "", false
}

// OpenHost opens a file of this machine, for Load.
func OpenHost(path string) (fs.File, error) { return os.Open(path) }
