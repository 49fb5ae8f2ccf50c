package compose

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
)

// site is a suite at a mirror.
type site struct {
	// url ends without a slash.
	url, suite string
	components []string
	// expired accepts metadata that says it is no longer valid.
	expired bool
	// optional suites are left out if the mirror has them not.
	optional bool
}

func indexSite(sites []site, suite string) int {
	return slices.IndexFunc(sites, func(s site) bool { return s.suite == suite })
}

// sites decides where packages come from.
func (p *apt) sites(ctx context.Context) ([]site, error) {
	o, suites := p.c.opts, p.c.distro.suites()
	switch {
	case o.Mirror != "" && o.Snapshot != "":
		return nil, errors.New("a mirror and a snapshot exclude each other: leave out --mirror or --snapshot")
	case o.SecurityMirror != "" && o.Mirror == "":
		return nil, errors.New("a security mirror goes with a mirror: give --mirror as well")
	case o.Mirror != "":
		main, err := mirrorURL("mirror", o.Mirror)
		if err != nil {
			return nil, err
		}
		out := []site{{url: main, suite: suites[0]}, {url: main, suite: suites[1], optional: true}}
		if o.SecurityMirror != "" {
			security, err := mirrorURL("security mirror", o.SecurityMirror)
			if err != nil {
				return nil, err
			}
			out = append(out, site{url: security, suite: suites[2]})
		}
		return withComponents(out, []string{"main"}), nil
	case o.Snapshot != "":
		main, err := mirrorURL("snapshot", o.Snapshot)
		if err != nil {
			return nil, err
		}
		out := []site{{url: main, suite: suites[0], expired: true}, {url: main, suite: suites[1], expired: true, optional: true}}
		// The layout of snapshot services: archive/NAME/DATE.
		if before, date, ok := strings.Cut(main, "/archive/debian/"); ok {
			out = append(out, site{url: before + "/archive/debian-security/" + date, suite: suites[2], expired: true})
		}
		return withComponents(out, []string{"main"}), nil
	}
	return p.hostSites(ctx)
}

func withComponents(sites []site, components []string) []site {
	for i := range sites {
		sites[i].components = components
	}
	return sites
}

func mirrorURL(what, s string) (string, error) {
	u, err := normalURL(s)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	if strings.ContainsAny(u, " \t[]") {
		return "", fmt.Errorf("%s: %q has characters in it that a list of sources cannot hold", what, s)
	}
	return strings.TrimRight(u, "/"), nil
}

// hostSites takes from the host's apt the sites that carry the release.
func (p *apt) hostSites(ctx context.Context) ([]site, error) {
	const format = "$(SITE)|$(RELEASE)|$(CODENAME)|$(COMPONENT)"
	filter := []string{"--format", format, "Created-By: Packages", "Target-Of: deb"}
	// Without release information the lists need not have been downloaded;
	// with it, a release called "stable" has a name.
	for _, lists := range []bool{false, true} {
		argv := append([]string{"apt-get", "indextargets"}, filter...)
		if !lists {
			argv = append(argv, "--no-release-info")
		}
		text, err := p.runHost(ctx, lists, argv...)
		if err != nil {
			return nil, err
		}
		sites, err := parseSites(text, p.c.distro.suites())
		if err != nil {
			return nil, err
		}
		if len(sites) > 0 {
			return sites, nil
		}
	}
	return nil, fmt.Errorf("apt is not configured with a mirror for %s (%s) on this machine: give one with --mirror URL", p.c.distro.name, p.c.distro.suite)
}

// parseSites reads lines of SITE|RELEASE|CODENAME|COMPONENT and keeps those of
// the suites, in the order of the suites. The first of them must be there.
func parseSites(text string, suites []string) ([]site, error) {
	var found []site
	for _, line := range strings.Split(text, "\n") {
		f := strings.Split(line, "|")
		if len(f) != 4 {
			continue
		}
		suite := f[1]
		if !slices.Contains(suites, suite) {
			suite = f[2]
		}
		if !slices.Contains(suites, suite) {
			continue
		}
		where, err := expandMirrorList(f[0])
		if err != nil {
			return nil, err
		}
		if where, err = mirrorURL("mirror of this machine's apt configuration", where); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(found, func(s site) bool { return s.url == where && s.suite == suite })
		if i < 0 {
			found = append(found, site{url: where, suite: suite})
			i = len(found) - 1
		}
		if !slices.Contains(found[i].components, f[3]) {
			found[i].components = append(found[i].components, f[3])
		}
	}
	slices.SortStableFunc(found, func(a, b site) int {
		return slices.Index(suites, a.suite) - slices.Index(suites, b.suite)
	})
	if len(found) == 0 || found[0].suite != suites[0] {
		return nil, nil
	}
	return found, nil
}

// expandMirrorList replaces apt's mirror+file:PATH, which cloud images use, by
// the first mirror of that list (apt-transport-mirror(1)).
func expandMirrorList(where string) (string, error) {
	list, ok := strings.CutPrefix(where, "mirror+file:")
	if !ok {
		return where, nil
	}
	u, err := url.Parse("file:" + list)
	if err != nil {
		return "", fmt.Errorf("mirror list %s: %w", where, err)
	}
	data, err := os.ReadFile(u.Path)
	if err != nil {
		return "", fmt.Errorf("read mirror list: %w", err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(f[0], "#") {
			return f[0], nil
		}
	}
	return "", fmt.Errorf("mirror list %s is empty: give a mirror with --mirror", u.Path)
}

// sourcesList is apt's list of the sites (sources.list(5)).
func sourcesList(sites []site, architecture, keyring string) string {
	var b strings.Builder
	for _, s := range sites {
		options := "arch=" + architecture + " signed-by=" + keyring
		if s.expired {
			options += " check-valid-until=no"
		}
		fmt.Fprintf(&b, "deb [%s] %s %s %s\n", options, s.url, s.suite, strings.Join(s.components, " "))
	}
	return b.String()
}
