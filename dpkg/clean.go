package dpkg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// leftovers are files that the installation made and that differ between two
// runs, tell when it was, or hold secrets that no two systems may share.
var leftovers = []string{
	"var/log/dpkg.log", "var/log/alternatives.log", "var/log/bootstrap.log", "var/log/apt/*",
	"var/log/fontconfig.log",
	"var/cache/ldconfig/aux-cache", "var/cache/debconf/*-old", "var/lib/dpkg/*-old",
	"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/.pwd.lock",
	"var/lib/systemd/random-seed", "var/lib/systemd/credential.secret",
	// Every image would have the same keys; "ssh-keygen -A" makes new ones.
	"etc/ssh/ssh_host_*_key", "etc/ssh/ssh_host_*_key.pub",
	// And the same with "make-ssl-cert generate-default-snakeoil".
	"etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem",
}

// clean makes two installations of the same packages the same and sets files
// that were made since began, or are from the future, to the source epoch.
func clean(root string, epoch *int64, began time.Time) error {
	for _, pattern := range leftovers {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return fmt.Errorf("internal error: %w", err)
		}
		for _, name := range names {
			if err := os.Remove(name); err != nil {
				return fmt.Errorf("clean the tree: %w", err)
			}
		}
	}
	if err := forgetMachine(root); err != nil {
		return err
	}
	if epoch == nil {
		return nil
	}
	return clampTimes(root, time.Unix(*epoch, 0), began)
}

// forgetMachine takes the machine's identity away. An empty machine-id makes
// systemd choose a new one at boot, and unlike "uninitialized" it does not make
// it apply all presets, which would undo what later stages enable or disable.
func forgetMachine(root string) error {
	err := os.Truncate(filepath.Join(root, "etc/machine-id"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("clean the tree: %w", err)
	}
	dbus := filepath.Join(root, "var/lib/dbus/machine-id")
	if st, err := os.Lstat(dbus); err == nil && st.Mode().IsRegular() {
		if err := os.Remove(dbus); err != nil {
			return fmt.Errorf("clean the tree: %w", err)
		}
	}
	return nil
}

func clampTimes(root string, epoch, began time.Time) error {
	limit := epoch
	if began.Before(limit) {
		limit = began // files that were made now are at least as new
	}
	times := timespecs(epoch)
	var dirs []string
	set := func(name string) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, name, times[:], unix.AT_SYMLINK_NOFOLLOW)
	}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || !info.ModTime().After(limit) {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, name)
			return nil
		}
		return set(name)
	})
	for _, name := range dirs {
		if err == nil {
			err = set(name)
		}
	}
	if err != nil {
		return fmt.Errorf("set times of the tree: %w", err)
	}
	return nil
}
