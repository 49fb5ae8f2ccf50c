package compose

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/BurntSushi/toml"
	"github.com/ossify/ossify/pattern"
)

// Blueprint is what osbuild-composer calls so: what is to be in an image.
// Keys that composer has and Ossify has not are refused by name.
type Blueprint struct {
	Name        string `toml:"name"`
	Description string `toml:"description"`
	Version     string `toml:"version"`
	// Distro is a name such as "debian-12", or empty for any.
	Distro       string `toml:"distro"`
	Architecture string `toml:"architecture"`
	// Modules are packages under another name.
	Packages       []Package      `toml:"packages"`
	Modules        []Package      `toml:"modules"`
	Groups         []PackageGroup `toml:"groups"`
	Customizations Customizations `toml:"customizations"`
}

// Package is a package to install. Version may have wildcards as in a shell;
// empty and "*" take the one that apt prefers.
type Package struct {
	Name    string `toml:"name"`
	Version string `toml:"version"`
}

// PackageGroup is a group of packages of a repository of RPM.
type PackageGroup struct {
	Name string `toml:"name"`
}

// Customizations are what a blueprint sets up besides packages.
type Customizations struct {
	Hostname    string       `toml:"hostname"`
	Kernel      Kernel       `toml:"kernel"`
	Timezone    Timezone     `toml:"timezone"`
	Locale      Locale       `toml:"locale"`
	Users       []User       `toml:"user"`
	Groups      []Group      `toml:"group"`
	SSHKeys     []SSHKey     `toml:"sshkey"`
	Services    Services     `toml:"services"`
	Files       []File       `toml:"files"`
	Directories []Directory  `toml:"directories"`
	Filesystems []Filesystem `toml:"filesystem"`
	Disk        Disk         `toml:"disk"`
	// Repositories exist on distributions of RPM only.
	Repositories []Repository `toml:"repositories"`
}

// Repository is a repository of RPM that the system in the image knows.
type Repository struct {
	ID string `toml:"id"`
	// Name is for people; empty is the id.
	Name string `toml:"name"`
	// One of BaseURLs, Metalink and Mirrorlist says where it is.
	BaseURLs   []string `toml:"baseurls"`
	Metalink   string   `toml:"metalink"`
	Mirrorlist string   `toml:"mirrorlist"`
	// GPGKeys are keys or URLs of keys.
	GPGKeys []string `toml:"gpgkeys"`
	// Filename is that of the file in /etc/yum.repos.d; empty is ID.repo.
	Filename       string `toml:"filename"`
	GPGCheck       *bool  `toml:"gpgcheck"`
	RepoGPGCheck   *bool  `toml:"repo_gpgcheck"`
	Enabled        *bool  `toml:"enabled"`
	Priority       *int   `toml:"priority"`
	SSLVerify      *bool  `toml:"sslverify"`
	ModuleHotfixes *bool  `toml:"module_hotfixes"`
	// InstallFrom also takes packages of the image from it.
	InstallFrom bool `toml:"install_from"`
}

// Kernel names the kernel's package and adds to its command line.
type Kernel struct {
	Name   string `toml:"name"`
	Append string `toml:"append"`
}

// Timezone is a zone such as "Europe/Berlin", and time servers.
type Timezone struct {
	Timezone   string   `toml:"timezone"`
	NTPServers []string `toml:"ntpservers"`
}

// Locale lists locales to generate; the first is the system's language.
type Locale struct {
	Languages []string `toml:"languages"`
}

// User is an account to make, or to change if a package brings it.
type User struct {
	Name        string `toml:"name"`
	Description string `toml:"description"`
	// Password is a hash as of crypt(3), or nil to leave the account locked.
	Password *string  `toml:"password"`
	Key      string   `toml:"key"`
	Home     string   `toml:"home"`
	Shell    string   `toml:"shell"`
	Groups   []string `toml:"groups"`
	UID      *int     `toml:"uid"`
	GID      *int     `toml:"gid"`
	// ExpireDate is in days since 1970.
	ExpireDate         *int  `toml:"expiredate"`
	ForcePasswordReset *bool `toml:"force_password_reset"`
}

// Group is a group to make.
type Group struct {
	Name string `toml:"name"`
	GID  *int   `toml:"gid"`
}

// SSHKey is a public key for a user, whether the blueprint makes it or not.
type SSHKey struct {
	User string `toml:"user"`
	Key  string `toml:"key"`
}

// Services lists systemd units.
type Services struct {
	Enabled  []string `toml:"enabled"`
	Disabled []string `toml:"disabled"`
	Masked   []string `toml:"masked"`
}

// File is a file to write; folders on the way are made if they are missing.
type File struct {
	Path  string `toml:"path"`
	User  Owner  `toml:"user"`
	Group Owner  `toml:"group"`
	Mode  Mode   `toml:"mode"`
	Data  string `toml:"data"`
}

// Directory is a directory to make.
type Directory struct {
	Path          string `toml:"path"`
	User          Owner  `toml:"user"`
	Group         Owner  `toml:"group"`
	Mode          Mode   `toml:"mode"`
	EnsureParents bool   `toml:"ensure_parents"`
}

// Filesystem asks for a size of what is mounted at Mountpoint.
type Filesystem struct {
	Mountpoint string `toml:"mountpoint"`
	MinSize    Size   `toml:"minsize"`
}

// Disk asks for a size of the whole disk.
type Disk struct {
	MinSize Size `toml:"minsize"`
}

// ReadBlueprint reads and checks a blueprint; "-" is the standard input. An
// error names the file, and the line and key where there is one.
func ReadBlueprint(path string) (*Blueprint, error) {
	var data []byte
	var err error
	if path == "-" {
		path = "standard input"
		data, err = io.ReadAll(os.Stdin)
	} else {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read blueprint: %w", err)
	}
	return ParseBlueprint(path, data)
}

// ParseBlueprint is ReadBlueprint for a text; name is for messages.
func ParseBlueprint(name string, data []byte) (*Blueprint, error) {
	bp := &Blueprint{}
	lines := locateKeys(string(data))
	meta, err := toml.Decode(string(data), bp)
	if err != nil {
		return nil, fmt.Errorf("%s%w", name, positioned(err))
	}
	for _, key := range meta.Undecoded() {
		path, err := unknownKey(key)
		return nil, fmt.Errorf("%s%s: %w", name, lines.at(path), err)
	}
	if path, err := bp.check(); err != nil {
		return nil, fmt.Errorf("%s%s: %s: %w", name, lines.at(path), path, err)
	}
	return bp, nil
}

// typeError is what the toml package says of a value of the wrong type; only
// errors of syntax have their position apart.
var typeError = pattern.New(`^toml: line ([0-9]+) \(last key "(.*)"\): (.*)$`)

// positioned brings errors of the toml package into the form ":LINE: KEY: WHY".
func positioned(err error) error {
	var parse toml.ParseError
	if !errors.As(err, &parse) {
		if m := typeError().FindStringSubmatch(err.Error()); m != nil {
			return fmt.Errorf(":%s: %s: %s", m[1], m[2], m[3])
		}
		return fmt.Errorf(": %w", err)
	}
	if parse.LastKey != "" {
		return fmt.Errorf(":%d: %s: %s", parse.Position.Line, parse.LastKey, parse.Message)
	}
	return fmt.Errorf(":%d: %s", parse.Position.Line, parse.Message)
}
