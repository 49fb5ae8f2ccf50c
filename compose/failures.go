package compose

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ossify/ossify/pattern"
)

// updateFailure is why "apt-get update" failed.
type updateFailure struct {
	cause error
	// what is the index that failed, such as
	// "http://mirror/debian bookworm InRelease", or empty.
	what string
	// reasons are apt's, without repetitions.
	reasons []string
}

var (
	failedIndex = pattern.New(`^Err:[0-9]+ (.*)$`)
	noRelease   = pattern.New(`The repository '(\S+) (\S+) Release' (does not have a Release file|no longer has a Release file)`)
	missingKey  = pattern.New(`NO_PUBKEY ([0-9A-F]+)|Missing key ([0-9A-F]+)`)
)

// explainUpdate reads what apt printed:
//
//	Err:2 http://mirror/debian bookworm InRelease     (stdout)
//	  Could not connect to mirror:80 ...
//	E: The repository '...' is not signed.            (stderr)
func explainUpdate(out output, cause error) *updateFailure {
	f := &updateFailure{cause: cause}
	add := func(reason string) {
		reason = strings.TrimSpace(reason)
		if reason != "" && !slices.Contains(f.reasons, reason) {
			f.reasons = append(f.reasons, reason)
		}
	}
	inError := false
	for _, line := range strings.Split(out.stdout, "\n") {
		if m := failedIndex().FindStringSubmatch(line); m != nil {
			if f.what == "" {
				f.what = m[1]
			}
			inError = true
			continue
		}
		if inError = inError && strings.HasPrefix(line, "  "); inError {
			add(line)
		}
	}
	for _, line := range strings.Split(out.stderr, "\n") {
		if e, ok := strings.CutPrefix(line, "E: "); ok {
			add(e)
		}
	}
	return f
}

// missingSuite is the suite that the mirror says it has not, or empty.
func (f *updateFailure) missingSuite() string {
	for _, r := range f.reasons {
		if m := noRelease().FindStringSubmatch(r); m != nil {
			return m[2]
		}
	}
	return ""
}

// has returns the first reason with one of the texts in it, or empty.
func (f *updateFailure) has(texts ...string) string {
	for _, r := range f.reasons {
		for _, t := range texts {
			if strings.Contains(r, t) {
				return r
			}
		}
	}
	return ""
}

// forPeople is one message with what to do.
func (f *updateFailure) forPeople(a *archive) error {
	what := f.what
	if what == "" {
		what = a.describe()
	}
	fail := func(reason, hint string) error {
		return fmt.Errorf("cannot read the repository %s: %s: %s", what, reason, hint)
	}
	if len(f.reasons) == 0 {
		return fail(f.cause.Error(), "apt gave no reason")
	}
	all := strings.Join(f.reasons, "\n")
	if m := missingKey().FindStringSubmatch(all); m != nil {
		return fail(fmt.Sprintf("it is signed with the key %s, which is not in %s", m[1]+m[2], a.keysFrom),
			fmt.Sprintf("install a newer %s, or give the archive's keys with --keyring", a.c.distro.keyringPackage))
	}
	if f.has("BADSIG", "signatures were invalid", "Clearsigned file isn't valid", "Splitting up") != "" {
		return fail("its signature is not valid", "something changed the content on its way: use another mirror with --mirror")
	}
	if f.has("is not signed") != "" && f.missingSuite() == "" {
		return fail("it is not signed, or with no key of "+a.keysFrom, "give the archive's keys with --keyring, or use another mirror with --mirror")
	}
	if r := f.has("is expired", "is not valid yet"); r != "" {
		return fail(r, "use a mirror that is up to date with --mirror, or a snapshot with --snapshot; check this machine's clock")
	}
	if f.has("Hash Sum mismatch", "unexpected size") != "" {
		return fail("its index does not match its signed checksums", "the mirror is being updated or broken: try again, or use another one with --mirror")
	}
	reason := f.reasons[0]
	if suite := f.missingSuite(); suite != "" && f.has("Could not", "Connection", "Temporary failure") == "" {
		return fail(fmt.Sprintf("it has no release %s", suite), "check the URL, whose last part is often /debian, or use another one with --mirror")
	}
	return fail(reason, "check the network and the proxy, or use another mirror with --mirror")
}

var versionMissing = pattern.New(`E: Version '([^']*)' for '([^']*)' was not found`)

// explainSolve makes one message of what apt printed when it found no solution.
func (a *archive) explainSolve(ctx context.Context, requests []request, out output, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if m := versionMissing().FindStringSubmatch(out.stderr); m != nil {
		versions, err := a.versions(ctx, m[2])
		if err != nil {
			return err
		}
		where := ""
		for _, r := range requests {
			if r.name == m[2] && r.version == m[1] {
				where = at(r)
			}
		}
		return fmt.Errorf("%sthe package %q has no version %q in %s: there is %s", where, m[2], m[1], a.describe(), strings.Join(versions, ", "))
	}
	if lines := unmet(out.stdout); len(lines) > 0 {
		return fmt.Errorf("the packages cannot be installed together: %s", strings.Join(lines, "; "))
	}
	return fmt.Errorf("apt cannot solve the dependencies: %w%s", cause, firstError(out.stderr))
}

// maxUnmet bounds how many of apt's explanations are repeated.
const maxUnmet = 5

var spaces = pattern.New(`\s+`)

// unmet returns apt's explanations:
//
//	The following packages have unmet dependencies:
//	 a : Depends: b (>= 2) but 1 is to be installed
//	     Conflicts: c
func unmet(stdout string) []string {
	_, list, ok := strings.Cut(stdout, "unmet dependencies:\n")
	if !ok {
		return nil
	}
	var lines []string
	name := ""
	for _, line := range strings.Split(list, "\n") {
		if !strings.HasPrefix(line, " ") {
			break
		}
		text := spaces().ReplaceAllString(strings.TrimSpace(line), " ")
		if first, rest, ok := strings.Cut(text, " : "); ok {
			name, text = first, rest
		}
		if len(lines) == maxUnmet {
			return append(lines, "...")
		}
		lines = append(lines, name+": "+text)
	}
	return lines
}
