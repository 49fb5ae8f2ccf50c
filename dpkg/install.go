package dpkg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how packages are installed.
type Options struct {
	// Arch is the architecture of the tree; empty: that of the packages.
	Arch string
	// ExcludeDocs leaves out manuals, translations and documentation but
	// for the copyright files.
	ExcludeDocs bool
	// Debconf holds answers to packages' questions, in the form of
	// debconf-set-selections(1).
	Debconf []string
	// SourceEpoch, in seconds, is the latest time that a file may have.
	// Nil leaves the times as they are.
	SourceEpoch *int64
	// Log receives the output of dpkg and of the maintainer scripts.
	Log io.Writer
}

// installation is one run of Install.
type installation struct {
	set  Set
	root string
	opts Options
	arch string

	tree       *tree
	placer     *placer
	spooled    map[*Package]*spooled
	jail       *jail
	configured map[*Package]bool
}

// Install installs the set into the directory root, which becomes the root of the
// new system. It is empty, or has files that scripts are to find; configuration
// files among them stay, as with dpkg's --force-confold. It needs CAP_SYS_ADMIN for mounts, seen by nobody
// else, and an id map that has the packages' owners. When it fails, root holds
// a system that is not finished, but no mount and no process.
func Install(ctx context.Context, set Set, root string, opts Options) (err error) {
	in := &installation{set: set, root: root, opts: opts, configured: map[*Package]bool{}}
	if in.arch, err = set.Arch(opts.Arch); err != nil {
		return err
	}
	if err := set.Check(); err != nil {
		return err
	}
	began := time.Now()
	// Scripts expect the usual mask.
	defer unix.Umask(unix.Umask(0o022))
	if err := prepareTree(root); err != nil {
		return err
	}
	if err := in.install(ctx); err != nil {
		return err
	}
	return clean(root, opts.SourceEpoch, began)
}

// linkedDirs are the directories of merged /usr besides bin, sbin and lib, as
// libc6 of each architecture knows them. They are made if a package uses them.
var linkedDirs = map[string][]string{
	"amd64": {"lib32", "lib64", "libx32"}, "i386": {"lib64", "libx32"}, "loong64": {"lib32", "lib64"},
	"mips": {"lib32", "lib64"}, "mipsel": {"lib32", "lib64"}, "mips64el": {"lib32", "lib64", "libo32"},
	"ppc64": {"lib32", "lib64"}, "ppc64el": {"lib64"}, "s390x": {"lib32"}, "sparc64": {"lib32", "lib64"}, "x32": {"lib32", "lib64", "libx32"},
}

// prepareTree refuses a tree that has packages already and makes the links of
// merged /usr, which have to be there before anything is unpacked.
func prepareTree(root string) error {
	_, err := os.Lstat(filepath.Join(root, adminDir, "status"))
	if err == nil {
		return fmt.Errorf("the tree has packages already (%s/status): all are installed at once", adminDir)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	if err := os.Chown(root, 0, 0); err != nil {
		return err
	}
	for _, name := range []string{"bin", "sbin", "lib"} {
		if err := mergeDir(root, name); err != nil {
			return err
		}
	}
	return nil
}

// mergeDir makes /usr/NAME and the link /NAME to it.
func mergeDir(root, name string) error {
	if err := os.MkdirAll(filepath.Join(root, "usr", name), 0o755); err != nil {
		return err
	}
	link, target := filepath.Join(root, name), "usr/"+name
	err := os.Symlink(target, link)
	if errors.Is(err, os.ErrExist) {
		if got, _ := os.Readlink(link); strings.TrimPrefix(got, "/") == target {
			return nil
		}
		return fmt.Errorf("the tree has /%s, which is not a link to %s: packages need merged /usr", name, target)
	}
	return err
}

func (in *installation) install(ctx context.Context) (err error) {
	if in.tree, err = openTree(in.root); err != nil {
		return err
	}
	defer in.tree.close()

	spoolDir := filepath.Join(in.root, spoolName)
	if err := os.Mkdir(spoolDir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(spoolDir)) }()
	spoolFD, err := in.tree.open("/"+spoolName, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(spoolFD)

	o := in.set.plan()
	exclude := func(string, bool) bool { return false }
	if in.opts.ExcludeDocs {
		exclude = isDoc
	}
	in.placer = newPlacer(in.root, in.tree, spoolFD, in.arch, exclude)
	spooled, stop := spool(ctx, spoolFD, slices.Concat(o.base, o.rest, o.kernels), exclude)
	defer stop()
	in.spooled = spooled

	if err := in.installBase(ctx, o.base); err != nil {
		return errors.Join(err, in.closeJail())
	}
	for _, group := range [][]*Package{o.rest, o.kernels} {
		if err := in.installGroup(ctx, group); err != nil {
			return errors.Join(err, in.closeJail())
		}
	}
	return errors.Join(in.audit(ctx), in.closeJail())
}

func (in *installation) closeJail() error {
	if in.jail == nil {
		return nil
	}
	return in.jail.close()
}

// installBase installs the packages without which no script runs: they are
// placed together before the first script.
func (in *installation) installBase(ctx context.Context, base []*Package) error {
	for _, p := range base {
		if err := in.place(ctx, p, true); err != nil {
			return err
		}
	}
	var err error
	if in.jail, err = newJail(in.root, in.environment()); err != nil {
		return err
	}
	for _, p := range base {
		if err := in.preinst(ctx, p); err != nil {
			return err
		}
	}
	return in.configure(ctx, base)
}

// installGroup installs packages that have a working base.
func (in *installation) installGroup(ctx context.Context, group []*Package) error {
	if len(group) == 0 {
		return nil
	}
	var placed []*Package
	for _, p := range group {
		if p.controlFile("preinst") != nil {
			// Only the script can tell whether pre-dependencies were
			// configured before the unpacking.
			need := in.set.closure(in.set.needs(p.preDepends))
			first := slices.DeleteFunc(slices.Clone(placed), func(q *Package) bool { return !need[q] || in.configured[q] })
			if len(first) > 0 {
				if err := in.configure(ctx, first); err != nil {
					return err
				}
			}
			if err := in.preinst(ctx, p); err != nil {
				return err
			}
		}
		if err := in.place(ctx, p, false); err != nil {
			return err
		}
		placed = append(placed, p)
	}
	return in.configure(ctx, slices.DeleteFunc(placed, func(q *Package) bool { return in.configured[q] }))
}

func (in *installation) place(ctx context.Context, p *Package, bare bool) error {
	entries, err := in.spooled[p].wait(ctx)
	if err != nil {
		return err
	}
	return in.placer.place(p, entries, bare)
}

// environment is all that scripts see of it.
func (in *installation) environment() []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"LC_ALL=C.UTF-8",
		"TERM=dumb",
		"DEBIAN_FRONTEND=noninteractive",
		"DEBCONF_NONINTERACTIVE_SEEN=true",
		"DEBCONF_NOWARNINGS=yes",
	}
	if in.opts.SourceEpoch != nil {
		env = append(env, "SOURCE_DATE_EPOCH="+strconv.FormatInt(*in.opts.SourceEpoch, 10))
	}
	return env
}

// preinst runs the package's preinst, if it has one, where dpkg runs it.
func (in *installation) preinst(ctx context.Context, p *Package) (err error) {
	if p.controlFile("preinst") == nil {
		return nil
	}
	dir := path.Join(adminDir, "tmp.ci")
	if err := in.tree.mkdirs(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Join(in.root, dir))) }()
	for _, m := range p.members {
		if err := in.tree.writeFile(path.Join(dir, m.name), m.data, uint32(m.mode), unix.O_EXCL); err != nil {
			return err
		}
	}
	out := &output{log: in.opts.Log}
	env := []string{
		"DPKG_MAINTSCRIPT_PACKAGE=" + p.Name, "DPKG_MAINTSCRIPT_NAME=preinst", "DPKG_MAINTSCRIPT_ARCH=" + p.Arch,
		"DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1", "DPKG_MAINTSCRIPT_DEBUG=0", "DPKG_ROOT=", "DPKG_ADMINDIR=" + adminDir,
		"DPKG_RUNNING_VERSION=" + in.dpkgVersion(), "DPKG_FORCE=security-mac,downgrade,unsafe-io,confold,confdef",
	}
	if err := in.jail.run(ctx, nil, env, out, path.Join(dir, "preinst"), "install"); err != nil {
		return out.explain(fmt.Errorf("package %s: preinst script: %w", p.Name, err))
	}
	return nil
}

// dpkgVersion is the upstream version of the tree's dpkg.
func (in *installation) dpkgVersion() string {
	for _, p := range in.set {
		if p.Name == "dpkg" {
			_, upstream, _ := splitVersion(p.Version)
			return upstream
		}
	}
	return ""
}

// configure runs the postinst scripts of these packages, which are all that
// wait for it or the part that others wait for.
func (in *installation) configure(ctx context.Context, packages []*Package) error {
	if err := in.placer.db.flush(); err != nil {
		return err
	}
	if err := in.preseed(ctx); err != nil {
		return err
	}
	argv := []string{"/usr/bin/dpkg", "--force-unsafe-io", "--force-confdef", "--force-confold", "--abort-after=1", "--configure"}
	for _, p := range packages {
		argv = append(argv, p.infoName())
		in.configured[p] = true
	}
	out := &output{log: in.opts.Log}
	if err := in.jail.run(ctx, nil, nil, out, argv...); err != nil {
		return out.explain(fmt.Errorf("configure packages: dpkg: %w", err))
	}
	return nil
}

// preseed answers the packages' questions as soon as debconf is unpacked.
func (in *installation) preseed(ctx context.Context) error {
	const tool = "/usr/bin/debconf-set-selections"
	if len(in.opts.Debconf) == 0 {
		return nil
	}
	if _, there, err := in.tree.lstat(tool); err != nil || !there {
		return err
	}
	answers := []byte(strings.Join(in.opts.Debconf, "\n") + "\n")
	in.opts.Debconf = nil
	out := &output{log: in.opts.Log}
	if err := in.jail.run(ctx, answers, nil, out, tool); err != nil {
		return out.explain(fmt.Errorf("debconf-set-selections: %w", err))
	}
	return nil
}

// audit fails unless dpkg is content with everything.
func (in *installation) audit(ctx context.Context) error {
	if len(in.opts.Debconf) > 0 {
		return errors.New("answers for debconf are given, but no package brings debconf-set-selections")
	}
	var report strings.Builder
	if err := in.jail.run(ctx, nil, nil, &report, "/usr/bin/dpkg", "--audit"); err != nil || report.Len() > 0 {
		return fmt.Errorf("dpkg --audit finds faults in the installed system: %s", strings.TrimSpace(report.String()))
	}
	bad, err := in.placer.db.notInstalled()
	if err != nil {
		return err
	}
	if len(bad) > 0 {
		return fmt.Errorf("packages are not properly installed: %s", strings.Join(bad, ", "))
	}
	return nil
}
