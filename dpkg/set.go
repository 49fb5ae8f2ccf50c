package dpkg

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/ossify/ossify/pattern"
	"golang.org/x/sync/errgroup"
)

// Set is the packages of one installation, sorted by name.
type Set []*Package

// OpenSet opens the packages at these paths, side by side. The caller closes
// the set.
func OpenSet(ctx context.Context, paths []string) (_ Set, err error) {
	set := make(Set, len(paths))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, path := range paths {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			set[i], err = Open(path)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, set.Close())
	}
	slices.SortFunc(set, func(a, b *Package) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
	return set, nil
}

// Close closes the files of all packages.
func (s Set) Close() error {
	var errs []error
	for _, p := range s {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// Arch returns the architecture of the set: the one that its packages have,
// besides "all". want, unless it is empty, is the one they must have.
func (s Set) Arch(want string) (string, error) {
	arch := want
	for _, p := range s {
		switch {
		case p.Arch == "all" || p.Arch == arch:
		case arch == "":
			arch = p.Arch
		default:
			return "", fmt.Errorf("package %s is for the architecture %s, the tree is for %s", p.Name, p.Arch, arch)
		}
	}
	if arch == "" {
		return "", errors.New("all packages are for any architecture: state the architecture of the tree")
	}
	return arch, nil
}

// Check says whether the set can be installed on its own: no package twice,
// every dependency in it, no conflict, and dpkg among its essential packages.
func (s Set) Check() error {
	var wrong []string
	for i, p := range s {
		if i > 0 && s[i-1].Name == p.Name {
			wrong = append(wrong, fmt.Sprintf("%s is given twice (versions %s and %s)", p.Name, s[i-1].Version, p.Version))
		}
		for _, need := range slices.Concat(p.preDepends, p.depends) {
			if s.provider(need) == nil {
				wrong = append(wrong, fmt.Sprintf("%s depends on %s, which no package provides", p.Name, need))
			}
		}
		for _, alts := range slices.Concat(p.conflicts, p.breaks) {
			for _, q := range s {
				if q.Name != p.Name && alts[0].satisfiedBy(q) {
					wrong = append(wrong, fmt.Sprintf("%s conflicts with %s, which %s %s is", p.Name, alts, q.Name, q.Version))
				}
			}
		}
	}
	if !slices.ContainsFunc(s, func(p *Package) bool { return p.Name == "dpkg" && p.essential }) {
		wrong = append(wrong, "dpkg is missing; an empty tree needs all packages that are Essential")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("packages cannot be installed together: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// provider returns the first package that satisfies an alternative, in the
// order of the alternatives; real packages come before those that provide.
func (s Set) provider(alts Alternatives) *Package {
	for _, r := range alts {
		var virtual *Package
		for _, p := range s {
			if !r.satisfiedBy(p) {
				continue
			}
			if p.Name == r.Name {
				return p
			}
			if virtual == nil {
				virtual = p
			}
		}
		if virtual != nil {
			return virtual
		}
	}
	return nil
}

// needs returns the packages that satisfy the dependencies, without repeats.
func (s Set) needs(all []Alternatives) []*Package {
	var out []*Package
	for _, alts := range all {
		if p := s.provider(alts); p != nil && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// order is a set split into the groups of an installation, each in the order
// in which its packages are placed.
type order struct {
	base    []*Package // essential packages and all that they depend on
	rest    []*Package
	kernels []*Package // kernels, and packages that depend on them
}

var kernelRE = pattern.New(`(?m)^[0-9a-f]{32}  (usr/lib/modules/[^/]+|boot)/vmlinu[xz]`)

// plan orders a set that was checked.
func (s Set) plan() order {
	var o order
	base := map[*Package]bool{}
	var sorted []*Package
	seen := map[*Package]bool{}
	// Dependencies first; pre-dependencies have no cycles, so that they
	// always are first, and other cycles are cut where they are entered.
	var visit func(p *Package, mark bool)
	visit = func(p *Package, mark bool) {
		if seen[p] {
			return
		}
		seen[p] = true
		for _, q := range slices.Concat(s.needs(p.preDepends), s.needs(p.depends)) {
			visit(q, mark)
		}
		if mark {
			base[p] = true
		}
		sorted = append(sorted, p)
	}
	for _, p := range s {
		if p.essential {
			visit(p, true)
		}
	}
	for _, p := range s {
		visit(p, false)
	}
	late := map[*Package]bool{}
	for grown := true; grown; {
		grown = false
		for _, p := range s {
			if base[p] || late[p] {
				continue
			}
			onLate := slices.ContainsFunc(s.needs(slices.Concat(p.preDepends, p.depends)),
				func(q *Package) bool { return late[q] })
			if onLate || kernelRE().Match(p.controlFile("md5sums")) {
				late[p], grown = true, true
			}
		}
	}
	for _, p := range sorted {
		switch {
		case base[p]:
			o.base = append(o.base, p)
		case late[p]:
			o.kernels = append(o.kernels, p)
		default:
			o.rest = append(o.rest, p)
		}
	}
	return o
}

// closure returns the packages and all that they depend on.
func (s Set) closure(of []*Package) map[*Package]bool {
	all := map[*Package]bool{}
	for queue := slices.Clone(of); len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		if !all[p] {
			all[p] = true
			queue = append(queue, s.needs(slices.Concat(p.preDepends, p.depends))...)
		}
	}
	return all
}
