package compose

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// request is something that a solver is asked to install.
type request struct {
	// name is a package; to apt also a pattern, which begins with "?", to dnf
	// also a group, which begins with "@".
	name, version string
	// where is the key of the blueprint, or empty.
	where string
}

func (r request) String() string {
	if r.version == "" || r.version == "*" {
		return r.name
	}
	return r.name + "=" + r.version
}

// solve returns all packages that apt would install into an empty system,
// sorted by name. A solution is kept for as long as the lists stay the same.
func (a *archive) solve(ctx context.Context, requests []request) ([]pinned, error) {
	argv := []string{"apt-get", "install", "-y", "-q", "--print-uris", "-o", "Acquire::ForceHash=SHA256"}
	if a.c.opts.WeakDependencies {
		argv = append(argv, "--install-recommends")
	}
	argv = append(argv, "--")
	for _, r := range requests {
		argv = append(argv, r.String())
	}
	cached, err := a.solutionPath(argv)
	if err != nil {
		return nil, err
	}
	if text, err := os.ReadFile(cached); err == nil {
		return parseSolution(string(text))
	}
	// apt takes the name of a package that it does not know for a regular
	// expression, a task or a removal.
	if err := a.checkNames(ctx, requests); err != nil {
		return nil, err
	}
	out, err := a.apt.run(ctx, a, argv...)
	if err != nil {
		return nil, a.explainSolve(ctx, requests, out, err)
	}
	packages, err := parseSolution(out.stdout)
	if err != nil {
		return nil, err
	}
	for _, r := range requests {
		if strings.HasPrefix(r.name, "?") {
			continue
		}
		if !slices.ContainsFunc(packages, func(p pinned) bool { return p.name == r.name }) {
			return nil, fmt.Errorf("%sapt does not install the package %q beside the others", at(r), r.name)
		}
	}
	return packages, keepSolution(cached, []byte(out.stdout))
}

// keepSolution renames into place, for a file cut short would be a wrong solution.
func keepSolution(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return fmt.Errorf("keep solution: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("keep solution: %w", err)
	}
	return nil
}

// solutionPath is named for everything that a solution depends on besides the
// lists: the question and apt's configuration.
func (a *archive) solutionPath(argv []string) (string, error) {
	config, err := os.ReadFile(filepath.Join(a.dir, "apt.conf"))
	if err != nil {
		return "", fmt.Errorf("read apt's configuration: %w", err)
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n%+v\n%s", argv, a.sites, config)
	return filepath.Join(a.dir, "solved", hex.EncodeToString(sum.Sum(nil))), nil
}

func parseSolution(text string) ([]pinned, error) {
	packages, err := parseURIs(text)
	if err != nil {
		return nil, err
	}
	if len(packages) == 0 {
		return nil, errors.New("apt found nothing to install: the repository has no essential packages")
	}
	slices.SortFunc(packages, func(a, b pinned) int { return strings.Compare(a.name, b.name) })
	return packages, nil
}

func (a *archive) checkNames(ctx context.Context, requests []request) error {
	out, err := a.apt.run(ctx, a, "apt-cache", "pkgnames")
	if err != nil {
		return fmt.Errorf("list packages: %w%s", err, firstError(out.stderr))
	}
	names := strings.Fields(out.stdout)
	known := make(map[string]bool, len(names))
	for _, n := range names {
		known[n] = true
	}
	for _, r := range requests {
		if strings.HasPrefix(r.name, "?") || known[r.name] {
			continue
		}
		if hint, err := a.providers(ctx, r.name); err != nil {
			return err
		} else if hint != "" {
			return fmt.Errorf("%sthe package %q is virtual: name one that provides it%s", at(r), r.name, hint)
		}
		return fmt.Errorf("%sthe package %q does not exist in %s%s", at(r), r.name, a.describe(), didYouMean(r.name, names))
	}
	return nil
}

// providers lists packages that provide a virtual one, as a part of a message.
func (a *archive) providers(ctx context.Context, name string) (string, error) {
	out, err := a.apt.run(ctx, a, "apt-cache", "showpkg", name)
	if err != nil {
		return "", fmt.Errorf("look for providers of %s: %w%s", name, err, firstError(out.stderr))
	}
	// The name may have matched as a regular expression.
	if first, _, _ := strings.Cut(out.stdout, "\n"); strings.TrimSpace(first) != "Package: "+name {
		return "", nil
	}
	_, list, _ := strings.Cut(out.stdout, "\nReverse Provides:")
	var found []string
	for _, line := range strings.Split(list, "\n") {
		if f := strings.Fields(line); len(f) > 1 && !slices.Contains(found, f[0]) {
			found = append(found, f[0])
		}
	}
	if len(found) == 0 {
		return "", nil
	}
	slices.Sort(found)
	if len(found) > 8 {
		found = append(found[:8], "...")
	}
	return " (" + strings.Join(found, ", ") + ")", nil
}

// versions returns the versions of a package that the archive has.
func (a *archive) versions(ctx context.Context, name string) ([]string, error) {
	out, err := a.apt.run(ctx, a, "apt-cache", "show", "--", name)
	if err != nil {
		return nil, fmt.Errorf("look for versions of %s: %w%s", name, err, firstError(out.stderr))
	}
	var found []string
	err = readRecords(strings.NewReader(out.stdout), func(r record) bool {
		if v := r["version"]; v != "" && !slices.Contains(found, v) {
			found = append(found, v)
		}
		return true
	})
	return found, err
}

// at names the key of the blueprint that asked for something.
func at(r request) string {
	if r.where == "" {
		return ""
	}
	return r.where + ": "
}

// describe names the suites in use, for messages.
func (a *archive) describe() string {
	var parts []string
	for _, s := range a.sites {
		parts = append(parts, s.suite)
	}
	return fmt.Sprintf("%s at %s", strings.Join(parts, ", "), a.sites[0].url)
}
