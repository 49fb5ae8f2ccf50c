package compose

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/BurntSushi/toml"
)

// refused are the keys of osbuild-composer's blueprints that Ossify does not
// have, with what to do.
var refused = map[string]string{
	"containers":                         "containers in images are not supported",
	"enabled_modules":                    "module streams are not supported",
	"minimal":                            "images are minimal anyway: recommended packages are left out",
	"customizations.locale.keyboard":     "keyboard layouts are not supported: write /etc/vconsole.conf, or on Debian /etc/default/keyboard with the package console-setup, with [[customizations.files]]",
	"customizations.firewall":            "firewalls are not supported: add the package nftables and write its configuration with [[customizations.files]]",
	"customizations.installation_device": "installers are not supported",
	"customizations.installer":           "installers are not supported",
	"customizations.fdo":                 "device onboarding is not supported",
	"customizations.ignition":            "ignition is not supported",
	"customizations.openscap":            "openscap is not supported",
	"customizations.partitioning_mode":   "the layout is fixed: a GPT with BIOS boot, EFI and root partitions",
	"customizations.disk.partitions":     "the layout is fixed: a GPT with BIOS boot, EFI and root partitions; set minsize for a larger disk",
	"customizations.disk.type":           "the layout is fixed: a GPT with BIOS boot, EFI and root partitions",
	"customizations.disk.start_offset":   "the layout is fixed: a GPT with BIOS boot, EFI and root partitions",
	"customizations.fips":                "fips mode is not supported",
	"customizations.containers-storage":  "containers in images are not supported",
	"customizations.rpm":                 "options of rpm are not supported",
	"customizations.rhsm":                "subscriptions are not supported",
	"customizations.cacerts":             "certificates are not supported: write them to /usr/local/share/ca-certificates, or on Fedora and its kin to /etc/pki/ca-trust/source/anchors, with [[customizations.files]]",
	"customizations.dnf":                 "options of dnf are not supported: write /etc/dnf/dnf.conf with [[customizations.files]]",
	"customizations.files.uri":           "contents from elsewhere are not supported: use data",
	"customizations.filesystem.label":    "labels are not supported",
	"customizations.filesystem.type":     "the filesystem is ext4",
}

// unknownKey explains why a key is refused; its path has no indexes.
func unknownKey(key toml.Key) (string, error) {
	t := reflect.TypeFor[Blueprint]()
	for i, part := range key {
		for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		path := strings.Join(key[:i+1], ".")
		if why := refused[path]; why != "" {
			return path, fmt.Errorf("%s is refused: %s", path, why)
		}
		if t.Kind() != reflect.Struct {
			break
		}
		var names []string
		var field reflect.Type
		for f := range fields(t) {
			names = append(names, f.Tag.Get("toml"))
			if f.Tag.Get("toml") == part {
				field = f.Type
			}
		}
		if field == nil {
			hint := didYouMean(part, names)
			if hint == "" {
				hint = ": known are " + strings.Join(names, ", ")
			}
			return path, fmt.Errorf("unknown key %s%s", path, hint)
		}
		t = field
	}
	return key.String(), fmt.Errorf("unknown key %s", key)
}

func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// keyLines tells on which line a key stands. Keys have indexes where they are
// in an array of tables, as in "packages[1].name"; each is there without
// indexes as well, for its first line.
type keyLines map[string]int

// at returns ":LINE" for a key, or for what contains it, or nothing.
func (k keyLines) at(path string) string {
	for path != "" {
		if line, ok := k[path]; ok {
			return fmt.Sprintf(":%d", line)
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			break
		}
		path = path[:cut]
	}
	return ""
}

// locateKeys finds keys of tables and of arrays of tables. Keys within inline
// tables are not found; the toml package keeps positions to itself.
func locateKeys(text string) keyLines {
	lines := keyLines{}
	add := func(path, plain string, line int) {
		for _, p := range []string{path, plain} {
			if _, ok := lines[p]; !ok {
				lines[p] = line
			}
		}
	}
	counts := map[string]int{}
	var table, plainTable string
	var quote string
	depth := 0
	for n, line := range strings.Split(text, "\n") {
		if quote == "" && depth == 0 {
			trimmed := strings.TrimSpace(line)
			switch array := strings.HasPrefix(trimmed, "[["); {
			case strings.HasPrefix(trimmed, "["):
				parts, _ := dottedKey(strings.TrimLeft(trimmed, "["))
				if len(parts) == 0 {
					continue
				}
				plainTable = strings.Join(parts, ".")
				table = indexed(parts, counts, array)
				add(table, plainTable, n+1)
				continue
			default:
				parts, rest := dottedKey(trimmed)
				if len(parts) == 0 || !strings.HasPrefix(rest, "=") {
					break
				}
				key := strings.Join(parts, ".")
				add(join(table, key), join(plainTable, key), n+1)
			}
		}
		quote, depth = scanValue(line, quote, depth)
	}
	return lines
}

func join(table, key string) string {
	if table == "" {
		return key
	}
	return table + "." + key
}

// indexed puts the current index behind every part that is an array of tables.
func indexed(parts []string, counts map[string]int, array bool) string {
	path := ""
	for i, part := range parts {
		path = join(path, part)
		if array && i == len(parts)-1 {
			counts[path]++
		}
		if c := counts[path]; c > 0 {
			path = fmt.Sprintf("%s[%d]", path, c-1)
		}
	}
	return path
}

// dottedKey reads a key at the start of s and returns what follows it.
func dottedKey(s string) (parts []string, rest string) {
	for {
		s = strings.TrimLeft(s, " \t")
		var part string
		if s != "" && (s[0] == '"' || s[0] == '\'') {
			end := strings.IndexByte(s[1:], s[0])
			if end < 0 {
				return nil, s
			}
			part, s = s[1:1+end], s[2+end:]
		} else {
			end := strings.IndexFunc(s, func(r rune) bool {
				return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
			})
			if end <= 0 {
				return nil, s
			}
			part, s = s[:end], s[end:]
		}
		parts = append(parts, part)
		s = strings.TrimLeft(s, " \t")
		if !strings.HasPrefix(s, ".") {
			return parts, s
		}
		s = s[1:]
	}
}

// scanValue follows strings and brackets over a line: quote is the open
// multi-line string's, depth the number of open brackets.
func scanValue(line, quote string, depth int) (string, int) {
	for i := 0; i < len(line); {
		rest := line[i:]
		switch {
		case quote != "" && quote[0] == '"' && rest[0] == '\\':
			i += 2
		case quote != "" && strings.HasPrefix(rest, quote):
			i += len(quote)
			quote = ""
		case quote != "":
			i++
		case strings.HasPrefix(rest, `"""`), strings.HasPrefix(rest, "'''"):
			quote = rest[:3]
			i += 3
		case rest[0] == '"' || rest[0] == '\'':
			quote = rest[:1]
			i++
		case rest[0] == '#':
			i = len(line)
		default:
			switch rest[0] {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(depth-1, 0)
			}
			i++
		}
	}
	if len(quote) == 1 {
		// A plain string ends with its line.
		quote = ""
	}
	return quote, depth
}
