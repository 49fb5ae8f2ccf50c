package stages

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/ossify/ossify/module"
)

type localeOptions struct {
	Language string `json:"language"`
}

// locale writes /etc/locale.conf, as osbuild does with systemd-firstboot. On
// Debian logins read /etc/default/locale, which becomes a link to it, as
// Debian 13 has it.
func locale(_ context.Context, args *module.Args, options localeOptions) error {
	if err := checkLocale(options.Language); err != nil {
		return err
	}
	if err := replaceFile(args, "/etc/locale.conf", "LANG="+quoteEnv(options.Language)+"\n"); err != nil {
		return fmt.Errorf("set locale: %w", err)
	}
	debian, err := treeTarget(args, "/etc/debian_version")
	if err != nil {
		return err
	}
	if _, err := os.Stat(debian); err != nil {
		return nil
	}
	entry, err := treeEntry(args, "/etc/default/locale")
	if err != nil {
		return err
	}
	if err := removeFile(entry); err != nil {
		return fmt.Errorf("set locale: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(entry), 0o755); err != nil {
		return fmt.Errorf("set locale: %w", err)
	}
	if err := os.Symlink("../locale.conf", entry); err != nil {
		return fmt.Errorf("set locale: %w", err)
	}
	return nil
}

// checkLocale has the rules of systemd 252's locale_is_valid. Like
// systemd-firstboot with a root directory, it does not ask whether the locale
// is installed.
func checkLocale(name string) error {
	invalid := func(why string) error { return fmt.Errorf("locale %q is not valid: %s", name, why) }
	switch {
	case name == "", name == ".", name == "..":
		return invalid("it must look like en_US.UTF-8")
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
