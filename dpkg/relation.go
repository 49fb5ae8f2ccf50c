package dpkg

import (
	"fmt"
	"strings"

	"github.com/ossify/ossify/pattern"
)

// Relation is one alternative of a dependency: a package and, with Op set, the
// versions of it.
type Relation struct {
	Name string
	// Arch is the qualifier after the colon, such as "any".
	Arch string
	// Op is "", "<<", "<=", "=", ">=" or ">>".
	Op      string
	Version string
}

// String returns the relation as control files write it.
func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	return s
}

// Alternatives is a dependency that any one of its relations satisfies.
type Alternatives []Relation

// String returns the alternatives as control files write them.
func (a Alternatives) String() string {
	parts := make([]string, len(a))
	for i, r := range a {
		parts[i] = r.String()
	}
	return strings.Join(parts, " | ")
}

var relationRE = pattern.New(
	`^([a-zA-Z0-9][a-zA-Z0-9+.-]*)(?::([a-z0-9-]+))?\s*(?:\(\s*(<<|<=|=|>=|>>|<|>)\s*([^\s()<=>]+)\s*\))?$`)

// ParseRelations parses the value of a dependency field of a binary package
// (deb-control(5)).
func ParseRelations(value string) ([]Alternatives, error) {
	var all []Alternatives
	for group := range strings.SplitSeq(value, ",") {
		group = strings.TrimSpace(group)
		if group == "" {
			continue
		}
		var alts Alternatives
		for one := range strings.SplitSeq(group, "|") {
			m := relationRE().FindStringSubmatch(strings.TrimSpace(one))
			if m == nil {
				return nil, fmt.Errorf("cannot read the relation %q", strings.TrimSpace(one))
			}
			op := m[3]
			if op == "<" || op == ">" { // their old meaning
				op += "="
			}
			alts = append(alts, Relation{Name: m[1], Arch: m[2], Op: op, Version: m[4]})
		}
		all = append(all, alts)
	}
	return all, nil
}

// accepts says whether the version is one that r asks for.
func (r Relation) accepts(version string) bool {
	if r.Op == "" {
		return true
	}
	c := CompareVersions(version, r.Version)
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	}
	return c > 0
}

// satisfiedBy says whether p, by its name or by what it provides, is what r
// asks for. A provision without version satisfies no versioned relation.
func (r Relation) satisfiedBy(p *Package) bool {
	if r.Arch != "" && r.Arch != "any" && p.Arch != "all" && r.Arch != p.Arch {
		return false
	}
	if r.Name == p.Name {
		return r.accepts(p.Version)
	}
	for _, alts := range p.provides {
		for _, v := range alts {
			if v.Name == r.Name && (r.Op == "" || v.Op == "=" && r.accepts(v.Version)) {
				return true
			}
		}
	}
	return false
}
