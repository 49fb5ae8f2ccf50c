package compose

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ossify/ossify/pattern"
)

var (
	// What Debian policy (5.6.1 and 5.6.12) and rpm allow; wildcards are the
	// solvers'.
	packageName    = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_+.-]+$`)
	packageVersion = pattern.New(`^[A-Za-z0-9*?][A-Za-z0-9_.+~^:*?-]*$`)
	repositoryID   = pattern.New(`^[A-Za-z0-9_.:-]+$`)
	hostnameLabel  = pattern.New(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	zoneName       = pattern.New(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)
	localeName     = pattern.New(`^(C|POSIX|[a-z]{2,3}(_[A-Z]{2})?)(\.[A-Za-z0-9-]+)?(@[a-z]+)?$`)
	unitName       = pattern.New(`^[A-Za-z0-9:_.@\\-]+$`)
	serverName     = pattern.New(`^[A-Za-z0-9.:-]+$`)
)

// check returns the path of the first key whose value is refused, and why.
func (bp *Blueprint) check() (string, error) {
	if bp.Name == "" {
		return "name", errors.New("a blueprint needs a name")
	}
	if strings.ContainsFunc(bp.Name, control) {
		return "name", errors.New("control characters are not allowed")
	}
	for _, list := range []struct {
		key      string
		packages []Package
	}{{"packages", bp.Packages}, {"modules", bp.Modules}} {
		for i, p := range list.packages {
			at := fmt.Sprintf("%s[%d].", list.key, i)
			if !packageName().MatchString(p.Name) {
				return at + "name", fmt.Errorf("%q is not a name of a package: letters, digits, + - . _", p.Name)
			}
			if p.Version != "" && !packageVersion().MatchString(p.Version) {
				return at + "version", fmt.Errorf("%q is not a version", p.Version)
			}
		}
	}
	for i, g := range bp.Groups {
		if !packageName().MatchString(g.Name) {
			return fmt.Sprintf("groups[%d].name", i), fmt.Errorf("%q is not the id of a group of packages, such as core", g.Name)
		}
	}
	for _, check := range []func() (string, error){
		bp.Customizations.checkSystem, bp.Customizations.checkAccounts,
		bp.Customizations.checkServices, bp.Customizations.checkFiles, bp.Customizations.checkRepositories,
	} {
		if key, err := check(); err != nil {
			return "customizations." + key, err
		}
	}
	return "", nil
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

func (c *Customizations) checkSystem() (string, error) {
	if c.Hostname != "" {
		if len(c.Hostname) > 64 {
			return "hostname", fmt.Errorf("%q is longer than 64 bytes", c.Hostname)
		}
		for _, label := range strings.Split(c.Hostname, ".") {
			if !hostnameLabel().MatchString(label) {
				return "hostname", fmt.Errorf("%q is not a host name: letters, digits and - in each part", c.Hostname)
			}
		}
	}
	if k := c.Kernel.Name; k != "" && !packageName().MatchString(k) {
		return "kernel.name", fmt.Errorf("%q is not a name of a package", k)
	}
	if strings.ContainsFunc(c.Kernel.Append, control) || strings.ContainsAny(c.Kernel.Append, "'\"`$\\") {
		return "kernel.append", errors.New("quotes, backquotes, $, backslashes and control characters are not allowed, for GRUB's configuration could not hold them")
	}
	if z := c.Timezone.Timezone; z != "" && !zoneName().MatchString(z) {
		return "timezone.timezone", fmt.Errorf("%q is not a time zone, such as Europe/Berlin", z)
	}
	for i, s := range c.Timezone.NTPServers {
		if !serverName().MatchString(s) {
			return fmt.Sprintf("timezone.ntpservers[%d]", i), fmt.Errorf("%q is neither a host name nor an address", s)
		}
	}
	for i, l := range c.Locale.Languages {
		if !localeName().MatchString(l) {
			return fmt.Sprintf("locale.languages[%d]", i), fmt.Errorf("%q is not a locale, such as en_US.UTF-8", l)
		}
	}
	for i, f := range c.Filesystems {
		at := fmt.Sprintf("filesystem[%d].", i)
		if f.Mountpoint != "/" {
			return at + "mountpoint", fmt.Errorf("%q is not supported: the only filesystem whose size can be set is /", f.Mountpoint)
		}
		if f.MinSize == 0 {
			return at + "minsize", errors.New("a size is needed, such as \"8 GiB\"")
		}
	}
	return "", nil
}

func (c *Customizations) checkAccounts() (string, error) {
	var users, groups []string
	for i, g := range c.Groups {
		at := fmt.Sprintf("group[%d].", i)
		if key, err := checkName(g.Name, groups); err != nil {
			return at + key, err
		}
		groups = append(groups, g.Name)
		if err := checkID(g.GID); err != nil {
			return at + "gid", err
		}
	}
	for i, u := range c.Users {
		at := fmt.Sprintf("user[%d].", i)
		if key, err := u.check(users); err != nil {
			return at + key, err
		}
		users = append(users, u.Name)
	}
	for i, k := range c.SSHKeys {
		at := fmt.Sprintf("sshkey[%d].", i)
		if !accountName().MatchString(k.User) {
			return at + "user", fmt.Errorf("%q is not the name of a user", k.User)
		}
		if err := checkKey(k.Key); err != nil {
			return at + "key", err
		}
	}
	return "", nil
}

func (u *User) check(others []string) (string, error) {
	if key, err := checkName(u.Name, others); err != nil {
		return key, err
	}
	if strings.ContainsAny(u.Description, ":\n\x00") {
		return "description", errors.New("colons and line breaks are not allowed, for /etc/passwd could not hold them")
	}
	if u.Password != nil {
		if err := checkPassword(*u.Password); err != nil {
			return "password", err
		}
	}
	if u.Key != "" {
		if err := checkKey(u.Key); err != nil {
			return "key", err
		}
	}
	for _, p := range []struct{ key, value string }{{"home", u.Home}, {"shell", u.Shell}} {
		if p.value != "" && (!path.IsAbs(p.value) || strings.ContainsAny(p.value, ":\n\x00")) {
			return p.key, fmt.Errorf("%q is not an absolute path", p.value)
		}
	}
	for i, g := range u.Groups {
		if !accountName().MatchString(g) {
			return fmt.Sprintf("groups[%d]", i), fmt.Errorf("%q is not the name of a group", g)
		}
	}
	if err := checkID(u.UID); err != nil {
		return "uid", err
	}
	return "gid", checkID(u.GID)
}

func checkName(name string, others []string) (string, error) {
	if !accountName().MatchString(name) {
		return "name", fmt.Errorf("%q is not a name for an account: letters, digits, _ . and -, no digit first, at most 32", name)
	}
	if slices.Contains(others, name) {
		return "name", fmt.Errorf("%q is there twice", name)
	}
	return "", nil
}

func checkID(id *int) error {
	if id != nil && (*id < 0 || *id > maxID) {
		return fmt.Errorf("%d is not an id: want 0 to %d", *id, maxID)
	}
	return nil
}

func (c *Customizations) checkServices() (string, error) {
	s := &c.Services
	off := append(slices.Clone(s.Disabled), s.Masked...)
	for _, list := range []struct {
		key   string
		units []string
	}{{"enabled", s.Enabled}, {"disabled", s.Disabled}, {"masked", s.Masked}} {
		for i, u := range list.units {
			at := fmt.Sprintf("services.%s[%d]", list.key, i)
			if !unitName().MatchString(u) {
				return at, fmt.Errorf("%q is not the name of a unit", u)
			}
			if list.key == "enabled" && slices.Contains(off, u) {
				return at, fmt.Errorf("%q is enabled and also disabled or masked", u)
			}
		}
	}
	return "", nil
}

func (c *Customizations) checkFiles() (string, error) {
	seen := map[string]bool{}
	for i, d := range c.Directories {
		if err := checkPath(d.Path, seen); err != nil {
			return fmt.Sprintf("directories[%d].path", i), err
		}
	}
	for i, f := range c.Files {
		if err := checkPath(f.Path, seen); err != nil {
			return fmt.Sprintf("files[%d].path", i), err
		}
	}
	return "", nil
}

func (c *Customizations) checkRepositories() (string, error) {
	var ids []string
	for i, r := range c.Repositories {
		at := fmt.Sprintf("repositories[%d]", i)
		places := 0
		for _, given := range []bool{len(r.BaseURLs) > 0, r.Metalink != "", r.Mirrorlist != ""} {
			if given {
				places++
			}
		}
		switch {
		case !repositoryID().MatchString(r.ID):
			return at + ".id", fmt.Errorf("%q is not the id of a repository: letters, digits, _ . : -", r.ID)
		case slices.Contains(ids, r.ID):
			return at + ".id", fmt.Errorf("%q is there twice", r.ID)
		case places != 1:
			return at, errors.New("a repository is at baseurls, at a metalink or at a mirrorlist: give one of them")
		case r.Filename != "" && (!strings.HasSuffix(r.Filename, ".repo") || !repositoryID().MatchString(r.Filename)):
			return at + ".filename", fmt.Errorf("%q is not the name of a file that ends in .repo", r.Filename)
		}
		ids = append(ids, r.ID)
		for j, u := range r.BaseURLs {
			if _, err := normalURL(u); err != nil {
				return fmt.Sprintf("%s.baseurls[%d]", at, j), err
			}
		}
		for j, k := range r.GPGKeys {
			if strings.Contains(k, armorBegin) {
				continue
			}
			if _, err := normalURL(k); err != nil {
				return fmt.Sprintf("%s.gpgkeys[%d]", at, j), fmt.Errorf("neither a key nor where it is: %w", err)
			}
		}
	}
	return "", nil
}

// volatile are directories that the running system covers.
var volatile = []string{"/dev", "/proc", "/run", "/sys", "/tmp"}

func checkPath(p string, seen map[string]bool) error {
	switch {
	case !path.IsAbs(p) || path.Clean(p) != p || p == "/":
		return fmt.Errorf("%q is not an absolute path in its shortest form", p)
	case strings.ContainsFunc(p, control):
		return fmt.Errorf("%q has control characters in it", p)
	case seen[p]:
		return fmt.Errorf("%q is there twice", p)
	}
	seen[p] = true
	for _, v := range volatile {
		if p == v || strings.HasPrefix(p, v+"/") {
			return fmt.Errorf("%q would be hidden: %s is made anew at every start", p, v)
		}
	}
	return nil
}
