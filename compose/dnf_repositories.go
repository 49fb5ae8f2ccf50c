package compose

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// repositories decides which repositories dnf is told of. If they are those of
// the host, the files of its configuration are returned.
func (d *dnf) repositories() (host map[string]string, err error) {
	o := d.c.opts
	mirror := o.Mirror
	switch {
	case o.Mirror != "" && o.Snapshot != "":
		return nil, errors.New("a mirror and a snapshot exclude each other: leave out --mirror or --snapshot")
	case o.SecurityMirror != "":
		return nil, fmt.Errorf("%s has no archive of security updates of its own: leave out --security-mirror", d.c.distro.name)
	case o.Snapshot != "":
		mirror = o.Snapshot
	}
	switch {
	case len(o.Repositories) > 0 && mirror != "":
		return nil, errors.New("repositories stand in place of a mirror's: leave out --repository, or --mirror and --snapshot")
	case len(o.Repositories) > 0:
		for i, url := range o.Repositories {
			if err := d.add(mirrored{id: fmt.Sprintf("repository-%d", i+1)}, "repository", url); err != nil {
				return nil, err
			}
		}
	case mirror != "":
		for _, r := range d.c.distro.rpm.repositories {
			if err := d.add(r, "mirror", strings.TrimRight(mirror, "/")+"/"+r.path); err != nil {
				return nil, err
			}
		}
	default:
		if host, err = d.hostConfiguration(); err != nil {
			return nil, err
		}
	}
	return host, d.addFromBlueprint()
}

// usesHost tells whether the host's repositories are used.
func (d *dnf) usesHost() bool {
	o := d.c.opts
	return o.Mirror == "" && o.Snapshot == "" && len(o.Repositories) == 0
}

// add adds a repository whose packages are signed with the keys of the keyring.
func (d *dnf) add(r mirrored, what, url string) error {
	url, err := normalURL(url)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	keyring, err := d.readKeyring()
	if err != nil {
		return err
	}
	return d.include(rpmRepository{
		ID: r.id, BaseURL: []string{strings.TrimRight(url, "/")}, GPGKey: []string{keyring},
		GPGCheck: true, SSLVerify: true, optional: r.optional,
	})
}

// include adds a repository and what a confined dnf has to see of it.
func (d *dnf) include(r rpmRepository) error {
	for _, url := range r.BaseURL {
		dir, ok := strings.CutPrefix(url, "file://")
		if !ok {
			continue
		}
		source, err := filepath.EvalSymlinks(dir)
		if errors.Is(err, fs.ErrNotExist) {
			// dnf will say so, or it may be missing.
			continue
		}
		if err != nil {
			return fmt.Errorf("repository %s: %w", url, err)
		}
		d.binds = append(d.binds, Bind{Source: source, Target: dir})
	}
	d.asked = append(d.asked, r)
	return nil
}

// readKeyring reads the keys that packages are signed with and returns the URL
// under which repositories name them.
func (d *dnf) readKeyring() (string, error) {
	path, hint := d.c.opts.Keyring, ""
	if path == "" {
		path = filepath.Join("/", d.c.opts.SolverRoot, d.c.distro.keyring)
		hint = fmt.Sprintf(": install the package %s, or give a file with the keys of the packages with --keyring", d.c.distro.keyringPackage)
	}
	url := "file://" + path
	if d.keys[url] != "" {
		return url, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the keys that signatures are checked with: %w%s", err, hint)
	}
	d.keys[url], err = armored(path, string(text))
	return url, err
}

const armorBegin = "-----BEGIN PGP PUBLIC KEY BLOCK-----"

// armored checks that a key is in the form that rpm imports.
func armored(where, text string) (string, error) {
	if !strings.Contains(text, armorBegin) {
		return "", fmt.Errorf("%s is not a key that rpm can import: it wants what \"gpg --armor --export\" writes", where)
	}
	return text, nil
}

// hostConfiguration returns the host's, or the solver root's, configuration of
// dnf if that system is the distribution: files of yum.repos.d and variables.
func (d *dnf) hostConfiguration() (map[string]string, error) {
	root := filepath.Join("/", d.c.opts.SolverRoot)
	release := d.c.distro.rpm
	found, err := readOSRelease(root)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	if major, _, _ := strings.Cut(found["VERSION_ID"], "."); found["ID"] == release.id && major == release.version {
		for dir, target := range map[string]string{"etc/yum.repos.d": "yum.repos.d", "etc/yum/vars": "vars", "etc/dnf/vars": "vars"} {
			if err := readDir(filepath.Join(root, dir), target, files); err != nil {
				return nil, fmt.Errorf("read dnf's configuration: %w", err)
			}
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("dnf is not configured with repositories of %s on this machine: give a mirror with --mirror URL, or the tree of a %s system with --solver-root", d.c.distro.name, d.c.distro.product)
	}
	return files, nil
}

func readDir(dir, target string, files map[string]string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		files[filepath.Join(target, e.Name())] = string(data)
	}
	return nil
}

// readOSRelease returns the values of os-release(5), or none if it is missing.
func readOSRelease(root string) (map[string]string, error) {
	data, err := os.ReadFile(filepath.Join(root, "usr/lib/os-release"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read os-release: %w", err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = strings.Trim(value, `"'`)
	}
	return values, nil
}

// addFromBlueprint adds the repositories of the blueprint that packages of the
// image are to come from.
func (d *dnf) addFromBlueprint() error {
	for i, r := range d.c.bp.Customizations.Repositories {
		if !r.InstallFrom {
			continue
		}
		at := fmt.Sprintf("customizations.repositories[%d]", i)
		q := rpmRepository{
			ID: r.ID, Name: r.Name, BaseURL: r.BaseURLs, Metalink: r.Metalink, Mirrorlist: r.Mirrorlist,
			GPGCheck: on(r.GPGCheck), RepoGPGCheck: r.RepoGPGCheck != nil && *r.RepoGPGCheck, SSLVerify: on(r.SSLVerify),
			Priority: r.Priority, ModuleHotfixes: r.ModuleHotfixes,
		}
		for _, old := range d.asked {
			if old.ID == q.ID {
				return fmt.Errorf("%s.id: %q is the id of a repository of %s: choose another", at, q.ID, d.c.distro.name)
			}
		}
		for j, key := range r.GPGKeys {
			if !strings.Contains(key, armorBegin) {
				return fmt.Errorf("%s.gpgkeys[%d]: packages are installed from this repository: put the key itself in place of its URL", at, j)
			}
			url := fmt.Sprintf("blueprint:%s/%d", r.ID, j)
			d.keys[url] = key
			q.GPGKey = append(q.GPGKey, url)
		}
		if len(q.GPGKey) == 0 && (q.GPGCheck || q.RepoGPGCheck) {
			return fmt.Errorf("%s: signatures of this repository cannot be checked: give gpgkeys, or set gpgcheck to false", at)
		}
		if err := d.include(q); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	return nil
}

// on is the value of a switch that is on by default.
func on(v *bool) bool { return v == nil || *v }

// readKeys takes the keys of the repositories in use into the composer. Those
// that the host's configuration names are files of that system.
func (d *dnf) readKeys() error {
	d.c.keys = nil
	for _, r := range d.found {
		if !r.GPGCheck {
			continue
		}
		if len(r.GPGKey) == 0 {
			return fmt.Errorf("the repository %s names no key for its packages: give one with --keyring", r.where())
		}
		for _, url := range r.GPGKey {
			text, err := d.key(r, url)
			if err != nil {
				return err
			}
			d.c.addKey(text)
		}
	}
	return nil
}

// addKey adds a key unless it is there.
func (c *composer) addKey(text string) {
	for _, k := range c.keys {
		if k == text {
			return
		}
	}
	c.keys = append(c.keys, text)
}

func (d *dnf) key(r rpmRepository, url string) (string, error) {
	path, ok := strings.CutPrefix(url, "file://")
	if !ok {
		return "", fmt.Errorf("the repository %s names the key %s, which is no file: give the keys with --keyring", r.where(), url)
	}
	if d.c.opts.Keyring != "" && !strings.HasPrefix(path, d.dir) {
		url, err := d.readKeyring()
		return d.keys[url], err
	}
	if !strings.HasPrefix(path, d.dir) {
		path = filepath.Join("/", d.c.opts.SolverRoot, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read a key of the repository %s: %w", r.where(), err)
	}
	return armored(path, string(text))
}
