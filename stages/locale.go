package stages

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

type localeOptions struct {
	Language string `json:"language"`
}

// locale writes /etc/locale.conf, as osbuild does with systemd-firstboot. On
// Debian logins read /etc/default/locale, which becomes a link to it, as
// Debian 13 has it.
func locale(_ context.Context, args *module.Args, options localeOptions) error {
	if err := checkFirstbootName("locale", "en_US.UTF-8", options.Language); err != nil {
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
