package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options say what a blueprint is composed for and where packages come from.
type Options struct {
	// Distro is the distribution, such as "debian-12". Empty takes the
	// blueprint's, or else "debian-12".
	Distro string
	// Type of the result: "qcow2", "raw" or "tar".
	Type string
	// Architecture is Debian's name of it, whatever the distribution; empty
	// means "amd64".
	Architecture string
	// Compression of a qcow2 image: "none", "zlib" or "zstd" (if empty).
	Compression string

	// Mirror is the URL of an archive, or of a mirror laid out as the
	// distribution's own. Empty takes what the host's apt or dnf is
	// configured with for the release.
	Mirror string
	// Repositories are URLs of repositories of RPM that are used in place of
	// those of a mirror.
	Repositories []string
	// Exclude are packages of RPM, or patterns as in a shell, that must not
	// be installed.
	Exclude []string
	// WeakDependencies installs recommended packages as well.
	WeakDependencies bool
	// SecurityMirror is the URL of the archive with security updates that
	// goes with Mirror. Without it a Mirror gives none.
	SecurityMirror string
	// Snapshot is the URL of an archive as it was at some date. Its metadata
	// is accepted although it has expired.
	Snapshot string
	// Keyring is a file with the keys that sign the archive, or the packages
	// of RPM. Empty takes the one of the distribution's keyring package.
	Keyring string
	// SolverRoot is a tree with a system whose apt or dnf is used in place of
	// the host's.
	SolverRoot string

	// BuildRoot is where the tools of the stages come from: "host" (if
	// empty), or "tree" for a build pipeline in the manifest.
	BuildRoot string

	// StateDir is an absolute directory for repository metadata, kept from
	// one call to the next. It is made if needed; calls that use the same
	// one at the same time wait for each other.
	StateDir string
	// MaxAge is how old repository metadata may be before the mirror is
	// asked again; zero asks it every time.
	MaxAge time.Duration
	// Exec runs a command and returns an error if it does not exit with 0.
	Exec func(ctx context.Context, c Command) error
	// Progress, if not nil, gets what is said while metadata is downloaded.
	Progress io.Writer
}

// Command is what Options.Exec is to run.
type Command struct {
	// Argv is the program, found in PATH, and its arguments.
	Argv []string
	// Env is the whole environment, as NAME=VALUE.
	Env []string
	// Root is the tree whose /usr the program is taken from; empty means the
	// host.
	Root string
	// Binds are what the program sees besides /usr.
	Binds []Bind
	// Network lets the program reach the network.
	Network        bool
	Stdout, Stderr io.Writer
}

// Bind makes a file or directory of the host visible to a command.
type Bind struct {
	// Source and Target are absolute; Source exists and is no symbolic link.
	Source, Target string
	Writable       bool
}

// Output tells which pipeline of a manifest of that type is to be exported and
// the name of the file that is in it.
func Output(imageType string) (pipeline, file string, err error) {
	t, err := findType(imageType)
	if err != nil {
		return "", "", err
	}
	return t.name, t.file, nil
}

// Manifest composes a blueprint. The same blueprint, options and repository
// state give the same bytes: indented JSON that ends with a newline.
func Manifest(ctx context.Context, bp *Blueprint, opts Options) ([]byte, error) {
	c, err := newComposer(bp, opts)
	if err != nil {
		return nil, err
	}
	s, release, err := openSolver(ctx, c)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := s.update(ctx); err != nil {
		return nil, err
	}
	if c.epoch, err = s.epoch(); err != nil {
		return nil, err
	}
	if c.os, err = s.solve(ctx, c.osPackages()); err != nil {
		return nil, err
	}
	if c.opts.BuildRoot == "tree" {
		if c.build, err = s.solve(ctx, c.buildPackages()); err != nil {
			return nil, fmt.Errorf("build pipeline: %w", err)
		}
	}
	m, err := c.manifest()
	if err != nil {
		return nil, err
	}
	return encode(m)
}

func encode(m *manifest) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return b.Bytes(), nil
}

// solver decides which packages are needed: apt or dnf.
type solver interface {
	// update brings the metadata of the repositories up to date, unless it
	// is younger than Options.MaxAge.
	update(ctx context.Context) error
	// epoch is the date of the newest metadata, in seconds since 1970.
	epoch() (int64, error)
	// solve returns all packages that an empty system needs for the
	// requests, sorted by name.
	solve(ctx context.Context, requests []request) ([]pinned, error)
}

// openSolver finds out which repositories to use and locks their metadata;
// release gives it free.
func openSolver(ctx context.Context, c *composer) (_ solver, release func(), err error) {
	if c.distro.rpm != nil {
		return openDnf(ctx, c)
	}
	return openArchive(ctx, c)
}

// composer is one call of Manifest.
type composer struct {
	bp     *Blueprint
	opts   Options
	distro distro
	image  imageType
	// sites are the archives of Debian in use, keys the texts of the keys
	// that packages of RPM are signed with.
	sites []site
	keys  []string
	// epoch is the date of the newest metadata, in seconds.
	epoch int64
	os    []pinned
	build []pinned
}

func newComposer(bp *Blueprint, opts Options) (*composer, error) {
	if opts.Exec == nil || !filepath.IsAbs(opts.StateDir) {
		return nil, errors.New("internal error: compose needs Exec and an absolute StateDir")
	}
	switch {
	case opts.Distro == "" && bp.Distro == "":
		opts.Distro = distros[0].name
	case opts.Distro == "":
		opts.Distro = bp.Distro
	case bp.Distro != "" && bp.Distro != opts.Distro:
		return nil, fmt.Errorf("the blueprint is for distro %q, but %q was asked for: change one of them", bp.Distro, opts.Distro)
	}
	c := &composer{bp: bp}
	var err error
	if c.distro, err = findDistro(opts.Distro); err != nil {
		return nil, err
	}
	if c.image, err = findType(opts.Type); err != nil {
		return nil, err
	}
	if opts.Architecture == "" {
		opts.Architecture = "amd64"
	}
	if opts.Architecture != "amd64" {
		return nil, fmt.Errorf("architecture %q is not supported: want amd64", opts.Architecture)
	}
	if a := bp.Architecture; a != "" && a != "x86_64" && a != opts.Architecture {
		return nil, fmt.Errorf("the blueprint is for architecture %q, which is not supported: want x86_64", a)
	}
	if c.distro.rpm == nil {
		if err := refuseRPM(bp, &opts); err != nil {
			return nil, err
		}
	}
	if err := oneOf("compression", &opts.Compression, "zstd", "zlib", "none"); err != nil {
		return nil, err
	}
	if err := oneOf("build root", &opts.BuildRoot, "host", "tree"); err != nil {
		return nil, err
	}
	c.opts = opts
	return c, nil
}

// refuseRPM refuses what only distributions of RPM have.
func refuseRPM(bp *Blueprint, opts *Options) error {
	switch {
	case len(bp.Groups) > 0:
		return errors.New("groups: Debian has no package groups: list packages, such as a task-* or a metapackage, under [[packages]]")
	case len(bp.Customizations.Repositories) > 0:
		return errors.New("customizations.repositories: these are repositories of RPM, which Debian cannot use: leave them out")
	case len(opts.Repositories) > 0:
		return errors.New("repositories of RPM are of no use to Debian: give an archive with --mirror in place of --repository")
	case len(opts.Exclude) > 0:
		return errors.New("packages of Debian cannot be excluded: leave out --exclude")
	}
	return nil
}

// oneOf checks an option; empty becomes the first allowed value.
func oneOf(what string, value *string, allowed ...string) error {
	if *value == "" {
		*value = allowed[0]
	}
	if !slices.Contains(allowed, *value) {
		return fmt.Errorf("unknown %s %q: want one of %s", what, *value, strings.Join(allowed, ", "))
	}
	return nil
}

// imageType is a kind of result.
type imageType struct {
	// name is also the pipeline's.
	name, file string
	// bootable images have a kernel, a boot loader and an fstab.
	bootable bool
}

var imageTypes = []imageType{
	{"qcow2", "disk.qcow2", true},
	{"raw", "disk.raw", true},
	{"tar", "root.tar", false},
}

func findType(name string) (imageType, error) {
	var names []string
	for _, t := range imageTypes {
		if t.name == name {
			return t, nil
		}
		names = append(names, t.name)
	}
	return imageType{}, fmt.Errorf("unknown image type %q%s: want one of %s", name, didYouMean(name, names), strings.Join(names, ", "))
}
