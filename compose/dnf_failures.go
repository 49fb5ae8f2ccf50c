package compose

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// refreshFailure is why metadata of a repository could not be had.
type refreshFailure struct {
	repository rpmRepository
	// reasons are librepo's, or else what dnf says.
	reasons []string
}

// explainRefresh reads what dnf 4 writes to standard error:
//
//	Errors during downloading metadata for repository 'updates':
//	  - Status code: 404 for http://mirror/updates/repodata/repomd.xml (IP: 192.0.2.1)
//
// dnf 5 answers with the reasons.
func explainRefresh(r rpmRepository, stderr string) *refreshFailure {
	f := &refreshFailure{repository: r, reasons: r.Reasons}
	mine := false
	for line := range strings.Lines(stderr) {
		reason, isReason := strings.CutPrefix(line, "  - ")
		switch {
		case strings.HasPrefix(line, "Errors during downloading metadata for repository '"):
			mine = strings.Contains(line, "'"+r.ID+"'")
		case !isReason:
			mine = false
		case mine && !slices.Contains(f.reasons, strings.TrimSpace(reason)):
			f.reasons = append(f.reasons, strings.TrimSpace(reason))
		}
	}
	return f
}

// has tells whether dnf says one of the texts.
func (f *refreshFailure) has(texts ...string) bool {
	all := strings.Join(f.reasons, "\n") + "\n" + f.repository.Error
	return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(all, t) })
}

// missing tells whether the mirror says that it has not the repository.
func (f *refreshFailure) missing() bool {
	return f.has("repomd.xml") && f.has("Status code: 404", "Couldn't open file", "Could not open file")
}

// forPeople is one message with what to do.
func (f *refreshFailure) forPeople(d *dnf) error {
	fail := func(reason, hint string) error {
		return fmt.Errorf("cannot read the repository %s: %s: %s", f.repository.where(), reason, hint)
	}
	switch {
	case f.has("GPG signature", "OpenPGP signature", "Bad PGP signature", "Bad GPG signature"):
		return fail("the signature of its metadata is not valid or not made with one of its keys", "give the right keys, or use another mirror with --mirror")
	case f.missing():
		return fail("there is no repodata/repomd.xml", "check the URL: a mirror of "+d.c.distro.name+" has its repositories in "+d.c.distro.paths())
	case f.has("Failed to load"):
		return fail(oneLine(f.repository.Error), "the metadata is broken: use another mirror with --mirror")
	case f.has("checksum doesn't match", "Checksum error"):
		return fail("its metadata does not match its checksums", "the mirror is being updated or broken: try again, or use another one with --mirror")
	}
	reason := oneLine(f.repository.Error)
	if len(f.reasons) > 0 {
		reason = f.reasons[0]
	}
	return fail(reason, "check the network and the proxy, or use another mirror with --mirror")
}

// paths are those of the repositories below a mirror, as a part of a message.
func (d distro) paths() string {
	var out []string
	for _, r := range d.rpm.repositories {
		out = append(out, r.path)
	}
	return strings.Join(out, " and ")
}

// oneLine makes one line of the solver's explanation:
//
//	Problem: package a-1-1.noarch requires b, but none of the providers can be installed
//	 - conflicting requests
func oneLine(text string) string {
	var parts []string
	for line := range strings.Lines(text) {
		line = spaces().ReplaceAllString(strings.TrimSpace(line), " ")
		line = strings.TrimPrefix(strings.TrimPrefix(line, "Problem: "), "- ")
		if line == "" || slices.Contains(parts, line) {
			continue
		}
		if len(parts) == maxUnmet {
			parts = append(parts, "...")
			break
		}
		parts = append(parts, line)
	}
	return strings.Join(parts, "; ")
}

// explainSolve makes one message of an answer that is no solution.
func (d *dnf) explainSolve(q *question, requests []request, a *answer) error {
	if a.Unreadable != "" {
		return fmt.Errorf("cannot read the repositories %s: %s: the metadata is broken: use another mirror with --mirror", d.describe(), oneLine(a.Unreadable))
	}
	for i, r := range q.Install {
		spec := r.Name
		if r.Version != "" {
			spec += "-" + r.Version
		}
		// dnf 5 leaves the sign of a group out.
		if !slices.Contains(a.Missing, spec) && !(strings.HasPrefix(spec, "@") && slices.Contains(a.Missing, spec[1:])) {
			continue
		}
		where := at(requests[i])
		if group, ok := strings.CutPrefix(r.Name, "@"); ok {
			return fmt.Errorf("%sthe group %q does not exist in %s%s", where, group, d.describe(), didYouMean(group, a.Groups))
		}
		for _, pattern := range q.Exclude {
			if ok, _ := path.Match(pattern, r.Name); ok {
				return fmt.Errorf("%sthe package %q is excluded by %q", where, r.Name, pattern)
			}
		}
		if versions := a.Versions[r.Name]; r.Version != "" && len(versions) > 0 {
			slices.Sort(versions)
			return fmt.Errorf("%sthe package %q has no version %q in %s: there is %s", where, r.Name, r.Version, d.describe(), strings.Join(slices.Compact(versions), ", "))
		}
		return fmt.Errorf("%sthe package %q does not exist in %s%s", where, r.Name, d.describe(), didYouMean(r.Name, a.Names))
	}
	return fmt.Errorf("the packages cannot be installed together: %s", oneLine(a.Problem))
}

// describe names the repositories in use, for messages.
func (d *dnf) describe() string {
	var parts []string
	for _, r := range d.found {
		parts = append(parts, r.where())
	}
	return strings.Join(parts, ", ")
}
