package stages

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// checkFirstbootName has the rules that systemd-firstboot 252 has for locales
// and keymaps. With a root directory it does not ask whether they are installed,
// and neither does this.
func checkFirstbootName(kind, example, name string) error {
	invalid := func(why string) error { return fmt.Errorf("%s %q is not valid: %s", kind, name, why) }
	switch {
	case name == "", name == ".", name == "..":
		return invalid("it must look like " + example)
	case len(name) >= 128:
		return invalid("it is longer than 127 bytes")
	case !utf8.ValidString(name):
		return invalid("it is not UTF-8")
	}
	for _, c := range name {
		if c < ' ' || strings.ContainsRune("/\"'\\\x7f", c) {
			return invalid(fmt.Sprintf("%q must not be in it", c))
		}
	}
	return nil
}

// quoteEnv quotes a value as systemd's write_env_file does.
func quoteEnv(value string) string {
	const escaped = "\"\\`$"
	if !strings.ContainsAny(value, " "+escaped+"*?['()<>|&;!") {
		return value
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(value); i++ {
		if strings.IndexByte(escaped, value[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(value[i])
	}
	b.WriteByte('"')
	return b.String()
}
