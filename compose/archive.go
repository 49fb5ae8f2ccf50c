package compose

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// archive is the metadata of some repositories, kept in a directory of its own:
//
//	apt.conf sources.list keyring.gpg status   apt's private configuration
//	lists/ cache/                              what apt downloads and derives
//	fresh                                      touched after each update
//	solved/                                    solutions, valid for lists/
//	lock                                       held while a composer uses it
type archive struct {
	c     *composer
	apt   *apt
	dir   string
	sites []site
	// keyring is the name of the file with the keys, keysFrom the one it
	// was copied from.
	keyring, keysFrom string
}

// openArchive finds out which repositories to use and locks the directory for
// them; release gives it free.
func openArchive(ctx context.Context, c *composer) (_ *archive, release func(), err error) {
	apt, err := newApt(c)
	if err != nil {
		return nil, nil, err
	}
	sites, err := apt.sites(ctx)
	if err != nil {
		return nil, nil, err
	}
	settings, err := apt.hostSettings(ctx)
	if err != nil {
		return nil, nil, err
	}
	a := &archive{c: c, apt: apt, sites: sites}
	keys, err := a.readKeyring()
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n%+v\n%+v\n%x", c.distro.name, c.opts.Architecture, sites, settings, sha256.Sum256(keys))
	a.dir = filepath.Join(c.opts.StateDir, c.distro.name+"-"+hex.EncodeToString(sum.Sum(nil))[:16])
	for _, d := range []string{"lists/partial", "cache/archives/partial", "solved"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return nil, nil, fmt.Errorf("make directory for repository metadata: %w", err)
		}
	}
	// Symbolic links on the way would not exist for a confined apt.
	if a.dir, err = filepath.EvalSymlinks(a.dir); err != nil {
		return nil, nil, err
	}
	release, err = lockFile(ctx, filepath.Join(a.dir, "lock"))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	a.keyring = "keyring" + keyringSuffix(keys)
	for name, content := range map[string]string{
		a.keyring:  string(keys),
		"apt.conf": aptConfig(a.dir, c.opts.Architecture, settings),
		"status":   "",
	} {
		if err := a.write(name, content); err != nil {
			return nil, nil, err
		}
	}
	c.sites = a.sites
	return a, release, a.writeSources()
}

// write writes a file of apt's configuration. It leaves a file alone that is
// right already, for apt compares times to tell whether its cache is valid.
func (a *archive) write(name, content string) error {
	path := filepath.Join(a.dir, name)
	if old, err := os.ReadFile(path); err == nil && string(old) == content {
		return nil
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return fmt.Errorf("write apt's configuration: %w", err)
	}
	return nil
}

func (a *archive) writeSources() error {
	return a.write("sources.list", sourcesList(a.sites, a.c.opts.Architecture, filepath.Join(a.dir, a.keyring)))
}

// lockFile takes an exclusive lock, waiting for other holders.
func lockFile(ctx context.Context, path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock repository metadata: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another compose that uses %s: %w", filepath.Dir(path), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (a *archive) readKeyring() ([]byte, error) {
	path, hint := a.c.opts.Keyring, ""
	if path == "" {
		path = filepath.Join(a.c.opts.SolverRoot, a.c.distro.keyring)
		hint = fmt.Sprintf(": install the package %s, or give a file with the archive's keys with --keyring", a.c.distro.keyringPackage)
	}
	a.keysFrom = path
	keys, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the keyring that signatures are checked with: %w%s", err, hint)
	}
	return keys, nil
}

// keyringSuffix is what apt tells the two forms of keyrings apart by.
func keyringSuffix(keys []byte) string {
	if strings.HasPrefix(string(keys), "-----BEGIN PGP PUBLIC KEY BLOCK-----") {
		return ".asc"
	}
	return ".gpg"
}

// update brings the lists up to date unless they are fresh enough. A suite that
// may be missing and is missing is left out.
func (a *archive) update(ctx context.Context) error {
	fresh := filepath.Join(a.dir, "fresh")
	if info, err := os.Stat(fresh); err == nil && a.c.opts.MaxAge > 0 {
		if age := time.Since(info.ModTime()); age >= 0 && age < a.c.opts.MaxAge {
			kept, err := os.ReadFile(fresh)
			if err != nil {
				return fmt.Errorf("read repository metadata: %w", err)
			}
			return a.leaveOut(strings.Fields(string(kept)))
		}
	}
	before, err := a.listsDigest()
	if err != nil {
		return err
	}
	var missing []string
	for {
		text, err := a.apt.run(ctx, a, "apt-get", "update", "-q")
		if err == nil {
			break
		}
		failure := explainUpdate(text, err)
		name := failure.missingSuite()
		i := indexSite(a.sites, name)
		if i < 0 || !a.sites[i].optional {
			return failure.forPeople(a)
		}
		missing = append(missing, name)
		if err := a.leaveOut([]string{name}); err != nil {
			return err
		}
	}
	after, err := a.listsDigest()
	if err != nil {
		return err
	}
	if before != after {
		if err := forgetSolutions(a.dir); err != nil {
			return err
		}
	}
	if err := os.WriteFile(fresh, []byte(strings.Join(missing, "\n")), 0o644); err != nil {
		return fmt.Errorf("note update of repository metadata: %w", err)
	}
	return nil
}

// leaveOut drops suites that their mirror has not.
func (a *archive) leaveOut(suites []string) error {
	for _, s := range suites {
		if i := indexSite(a.sites, s); i >= 0 {
			a.sites = slices.Delete(slices.Clone(a.sites), i, i+1)
			a.c.sites = a.sites
		}
	}
	return a.writeSources()
}

// forgetSolutions empties the folder of solutions in the directory of a solver.
func forgetSolutions(state string) error {
	dir := filepath.Join(state, "solved")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove old solutions: %w", err)
	}
	return os.Mkdir(dir, 0o755)
}

// releases returns the signed Release files that apt keeps, sorted.
func (a *archive) releases() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(a.dir, "lists"))
	if err != nil {
		return nil, fmt.Errorf("read repository metadata: %w", err)
	}
	var out []string
	for _, e := range entries {
		if n := e.Name(); strings.HasSuffix(n, "_InRelease") || strings.HasSuffix(n, "_Release") {
			out = append(out, filepath.Join(a.dir, "lists", n))
		}
	}
	slices.Sort(out)
	return out, nil
}

func (a *archive) listsDigest() (string, error) {
	paths, err := a.releases()
	if err != nil {
		return "", err
	}
	return filesDigest(paths)
}

// filesDigest stands for the names and contents of files.
func filesDigest(paths []string) (string, error) {
	sum := sha256.New()
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return "", fmt.Errorf("read repository metadata: %w", err)
		}
		fmt.Fprintln(sum, p)
		_, err = io.Copy(sum, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return "", fmt.Errorf("read repository metadata: %w", err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// epoch is the newest date of the Release files, in seconds since 1970: the
// state of the repositories, whenever they are asked.
func (a *archive) epoch() (int64, error) {
	paths, err := a.releases()
	if err != nil {
		return 0, err
	}
	var newest int64
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return 0, fmt.Errorf("read repository metadata: %w", err)
		}
		date, err := releaseDate(string(data))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", filepath.Base(p), err)
		}
		newest = max(newest, date.Unix())
	}
	if newest == 0 {
		return 0, errors.New("internal error: apt has updated, but there is no Release file")
	}
	return newest, nil
}
