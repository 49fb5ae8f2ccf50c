package rpms

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Releases and Updates are the repositories below the directory.
const (
	Releases = "releases/42/Everything/x86_64/os"
	Updates  = "updates/42/Everything/x86_64"
)

//go:embed *.go
var code embed.FS

// Cached builds the repository in the folder build of the module, unless it is
// there, and returns its directory, which is not to be changed.
func Cached(ctx context.Context) (string, error) {
	_, here, _, _ := runtime.Caller(0)
	parent := filepath.Join(filepath.Dir(here), "../../../build/rpmrepo")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	digest, err := contentDigest(ctx)
	if err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(parent, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	dir := filepath.Join(parent, digest)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	// What is there is of older code or older packages, or was never finished.
	old, err := filepath.Glob(filepath.Join(parent, "????????????????*"))
	if err != nil {
		return "", err
	}
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return "", err
		}
	}
	partial := dir + ".new"
	if err := Build(ctx, partial); err != nil {
		return "", err
	}
	return dir, os.Rename(partial, dir)
}

// contentDigest stands for what Build would make: this code, and the versions of
// Debian's packages.
func contentDigest(ctx context.Context) (string, error) {
	sum := sha256.New()
	entries, err := code.ReadDir(".")
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		data, err := code.ReadFile(e.Name())
		if err != nil {
			return "", err
		}
		sum.Write(data)
	}
	cmd := exec.CommandContext(ctx, "apt-cache", append([]string{"policy"}, debianPackages...)...)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache policy: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "Candidate:") {
			sum.Write([]byte(line))
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// Build makes the repository in a directory, which is made.
func Build(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	// Paths of the sockets of the key's agent must be short.
	work, err := os.MkdirTemp("", "rpms")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	debs := filepath.Join(work, "debs")
	for _, d := range []string{debs, filepath.Join(dir, Releases, "Packages"), filepath.Join(dir, Updates, "Packages")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	argv := append([]string{"apt-get", "download", "-qq"}, debianPackages...)
	if err := run(ctx, debs, nil, argv...); err != nil {
		return fmt.Errorf("%w (apt needs lists of packages: apt-get update)", err)
	}
	converted, err := convert(ctx, debs)
	if err != nil {
		return err
	}
	all := append(converted, small...)
	group, ctx2 := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, p := range all {
		group.Go(func() error {
			if err := p.build(ctx2, work, packagesDir(dir, p)); err != nil {
				return fmt.Errorf("build %s: %w", p.name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	keys, err := newKeys(ctx, work, dir)
	if err != nil {
		return err
	}
	defer keys.close()
	if err := keys.signPackages(ctx, dir, all); err != nil {
		return err
	}
	for _, repo := range []string{Releases, Updates} {
		if err := Index(ctx, filepath.Join(dir, repo)); err != nil {
			return err
		}
		if err := keys.signMetadata(ctx, filepath.Join(dir, repo)); err != nil {
			return err
		}
	}
	return nil
}

func packagesDir(dir string, p *pkg) string {
	if p.updates {
		return filepath.Join(dir, Updates, "Packages")
	}
	return filepath.Join(dir, Releases, "Packages")
}

// Index writes the metadata of a repository.
func Index(ctx context.Context, repo string) error {
	groups := filepath.Join(repo, "comps.xml")
	if err := os.WriteFile(groups, []byte(comps), 0o644); err != nil {
		return err
	}
	defer os.Remove(groups)
	return run(ctx, repo, nil, "createrepo_c", "--quiet", "--no-database", "--checksum", "sha256",
		"--general-compress-type", "gz", "--revision", buildTime, "--set-timestamp-to-revision", "--groupfile", groups, ".")
}

// run runs a program and makes what it printed part of the error.
func run(ctx context.Context, dir string, env []string, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", argv[0], err, out)
	}
	return nil
}
