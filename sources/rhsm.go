package sources

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// tlsFiles are files in PEM: what a client shows to a server, and the authority
// that it trusts, "" for the system's.
type tlsFiles struct{ cert, key, ca string }

// subscriptions are the certificates that Red Hat's subscription manager keeps
// on a registered host, and that podman hands on to containers there.
type subscriptions struct {
	// repositories of redhat.repo, in its order.
	repositories []repository
	// fallback is for URLs that are of none of them; it may be empty.
	fallback tlsFiles
}

type repository struct {
	// urls match what begins like one of its base URLs.
	urls  []*regexp.Regexp
	files tlsFiles
}

// readSubscriptions reads those of the host whose root directory is root.
func readSubscriptions(root string) (*subscriptions, error) {
	ca, entitlement := "/etc/rhsm/ca/redhat-uep.pem", "/etc/pki/entitlement"
	repos := []string{"/etc/yum.repos.d/redhat.repo"}
	if exists(root, "/run/.containerenv") && exists(root, "/run/secrets") {
		ca, entitlement = "/run/secrets/rhsm/ca/redhat-uep.pem", "/run/secrets/etc-pki-entitlement"
		repos = append([]string{"/run/secrets/redhat.repo"}, repos...)
	}
	// On a host of a Satellite this one knows the Satellite's certificate, too.
	if katello := filepath.Join(filepath.Dir(ca), "katello-server-ca.pem"); exists(root, katello) {
		ca = katello
	}
	ca = filepath.Join(root, ca)
	s := &subscriptions{}
	for _, path := range repos {
		f, err := os.Open(filepath.Join(root, path))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.repositories, err = parseRepositories(f, ca)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		break
	}
	entries, err := os.ReadDir(filepath.Join(root, entitlement))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		serial, isKey := strings.CutSuffix(e.Name(), "-key.pem")
		cert := filepath.Join(entitlement, serial+".pem")
		if isKey && exists(root, cert) {
			s.fallback = tlsFiles{cert: filepath.Join(root, cert), key: filepath.Join(root, entitlement, e.Name()), ca: ca}
		}
	}
	if len(s.repositories) == 0 && s.fallback.cert == "" {
		return nil, fmt.Errorf("this host has no subscription, neither in %s nor in %s: register it with subscription-manager register", strings.Join(repos, ", "), entitlement)
	}
	return s, nil
}

func exists(root, path string) bool {
	_, err := os.Stat(filepath.Join(root, path))
	return err == nil
}

// files returns those for the URL.
func (s *subscriptions) files(url string) (tlsFiles, error) {
	for _, r := range s.repositories {
		for _, base := range r.urls {
			if base.MatchString(url) {
				return r.files, nil
			}
		}
	}
	if s.fallback.cert == "" {
		return tlsFiles{}, errors.New("no subscription of this host is for that URL: enable its repository with subscription-manager repos")
	}
	return s.fallback, nil
}

// parseRepositories reads the repositories of a .repo file (dnf.conf(5)) that
// name a key and a certificate. ca is for those that name no authority.
func parseRepositories(r io.Reader, ca string) ([]repository, error) {
	var sections []map[string]string
	last := ""
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' {
			sections, last = append(sections, map[string]string{}), ""
			continue
		}
		if len(sections) == 0 {
			return nil, fmt.Errorf("the line %q stands in no section", line)
		}
		section := sections[len(sections)-1]
		if indented := strings.ContainsAny(lines.Text()[:1], " \t"); indented && last != "" {
			section[last] += "\n" + line
			continue
		}
		i := strings.IndexAny(line, "=:")
		if i < 0 {
			return nil, fmt.Errorf("the line %q has no value", line)
		}
		last = strings.ToLower(strings.TrimSpace(line[:i]))
		section[last] = strings.TrimSpace(line[i+1:])
	}
	var repositories []repository
	for _, section := range sections {
		repo := repository{files: tlsFiles{cert: section["sslclientcert"], key: section["sslclientkey"], ca: section["sslcacert"]}}
		if repo.files.cert == "" || repo.files.key == "" {
			continue
		}
		if repo.files.ca == "" {
			repo.files.ca = ca
		}
		for _, base := range strings.Fields(section["baseurl"]) {
			expr, err := regexp.Compile("^" + withVariables(regexp.QuoteMeta(strings.TrimRight(base, ","))))
			if err != nil {
				return nil, err
			}
			repo.urls = append(repo.urls, expr)
		}
		repositories = append(repositories, repo)
	}
	return repositories, lines.Err()
}

// withVariables lets variables of dnf in an expression stand for any text
// without a slash.
func withVariables(expr string) string {
	for _, name := range []string{"releasever", "arch", "basearch", "uuid"} {
		expr = strings.ReplaceAll(expr, `\$`+name, "[^/]*")
	}
	return expr
}
