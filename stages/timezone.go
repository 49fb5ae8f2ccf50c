package stages

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
)

// zoneinfo is where a system keeps the compiled time zones.
const zoneinfo = "/usr/share/zoneinfo"

type timezoneOptions struct {
	Zone string `json:"zone"`
}

// timezone points /etc/localtime at a zone, as osbuild does with
// systemd-firstboot.
func timezone(_ context.Context, args *module.Args, options timezoneOptions) error {
	if err := checkTimezone(args, options.Zone); err != nil {
		return err
	}
	entry, err := treeEntry(args, "/etc/localtime")
	if err != nil {
		return err
	}
	if err := removeFile(entry); err != nil {
		return fmt.Errorf("set timezone: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(entry), 0o755); err != nil {
		return fmt.Errorf("set timezone: %w", err)
	}
	if err := os.Symlink(".."+filepath.Join(zoneinfo, options.Zone), entry); err != nil {
		return fmt.Errorf("set timezone: %w", err)
	}
	return nil
}

// checkTimezone has the rules of systemd's timezone_is_valid for the name. The
// zone must be known to the tree or, as osbuild has it, to the build root; UTC
// always is.
func checkTimezone(args *module.Args, zone string) error {
	if zone == "" || strings.HasPrefix(zone, "/") || strings.HasSuffix(zone, "/") || strings.Contains(zone, "//") {
		return fmt.Errorf("timezone %q is not valid: it must look like Europe/Berlin", zone)
	}
	for _, c := range zone {
		if !isAlnum(c) && !strings.ContainsRune("-_+/", c) {
			return fmt.Errorf("timezone %q is not valid: %q must not be in its name", zone, c)
		}
	}
	if zone == "UTC" {
		return nil
	}
	inTree, err := treeTarget(args, filepath.Join(zoneinfo, zone))
	if err == nil && isZoneFile(inTree) || isZoneFile(filepath.Join(zoneinfo, zone)) {
		return nil
	}
	return fmt.Errorf("timezone %q is not known: neither the tree nor the build root has it in %s (package tzdata)", zone, zoneinfo)
}

// isZoneFile tells whether path is a compiled time zone (RFC 8536).
func isZoneFile(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 4)
	_, err = io.ReadFull(f, magic)
	return err == nil && string(magic) == "TZif"
}
