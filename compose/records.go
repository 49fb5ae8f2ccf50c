package compose

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ossify/ossify/pattern"
)

// pinned is a package as the manifest names it.
type pinned struct {
	name, version string
	url           string
	// size is in bytes; checksum is as sources have it, such as "sha256:0123".
	size     int64
	checksum string
	// The rest is RPM's: mirrors have the package too, secrets names who
	// provides what the download needs, insecure takes any certificate,
	// signed asks for a check of the signature.
	mirrors          []string
	secrets          string
	insecure, signed bool
}

var (
	uriLine   = pattern.New(`^'([^']+)' (\S+) ([0-9]+) (.*)$`)
	sha256Sum = pattern.New(`^SHA256:([0-9a-f]{64})$`)
)

// parseURIs reads what "apt-get --print-uris" prints with Acquire::ForceHash set
// to SHA256:
//
//	'http://mirror/pool/a_1%3a2_all.deb' a_1%3a2_all.deb 1234 SHA256:0123...
//
// Lines that do not begin with a quote are apt's chatter.
func parseURIs(text string) ([]pinned, error) {
	var out []pinned
	for _, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "'") {
			continue
		}
		m := uriLine().FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("apt printed a line that is not understood: %q", line)
		}
		sum := sha256Sum().FindStringSubmatch(m[4])
		if sum == nil {
			return nil, fmt.Errorf("the repository gives no sha256 for %s: it cannot be pinned", m[2])
		}
		size, err := strconv.ParseInt(m[3], 10, 64)
		if err != nil || size == 0 {
			return nil, fmt.Errorf("the repository gives the size %s for %s: it cannot be pinned", m[3], m[2])
		}
		parts := strings.Split(strings.TrimSuffix(m[2], ".deb"), "_")
		if len(parts) != 3 || !strings.HasSuffix(m[2], ".deb") {
			return nil, fmt.Errorf("%q is not named as a package: NAME_VERSION_ARCHITECTURE.deb", m[2])
		}
		version, err := url.PathUnescape(parts[1])
		if err != nil {
			return nil, fmt.Errorf("%q is not named as a package: %w", m[2], err)
		}
		where, err := normalURL(m[1])
		if err != nil {
			return nil, err
		}
		out = append(out, pinned{name: parts[0], version: version, url: where, size: size, checksum: "sha256:" + sum[1]})
	}
	return out, nil
}

// normalURL checks that the engine can fetch a URL and puts three slashes into
// apt's "file:/path".
func normalURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("%q is not a URL: %w", s, err)
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return "", fmt.Errorf("%q is not a URL: it has no host", s)
		}
	case "file":
		if !strings.HasPrefix(u.Path, "/") || u.Host != "" {
			return "", fmt.Errorf("%q is not a URL of a file: want file:///PATH", s)
		}
	default:
		return "", fmt.Errorf("%q is not a URL that can be fetched: want http, https or file", s)
	}
	if u.User != nil {
		return "", fmt.Errorf("%q has a user name in it, which would be written into the manifest: give a mirror without, with --mirror", u.Redacted())
	}
	u.OmitHost = false
	return u.String(), nil
}

// record is a paragraph of a deb822 file. Field names are in lower case.
type record map[string]string

// maxRecordLine bounds a line of a deb822 file, in bytes.
const maxRecordLine = 4 << 20

// readRecords reads the paragraphs of a deb822 file, such as Packages, and calls
// each until it returns false. Comments are left out; a continuation line is
// appended with its line break, without its first character.
func readRecords(r io.Reader, each func(record) bool) error {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxRecordLine)
	current := record{}
	last := ""
	for scanner.Scan() {
		line := scanner.Text()
		switch {
		case strings.TrimSpace(line) == "":
			if len(current) > 0 && !each(current) {
				return nil
			}
			current, last = record{}, ""
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return fmt.Errorf("deb822: continuation line %q follows nothing", line)
			}
			current[last] += "\n" + line[1:]
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok || name == "" {
				return fmt.Errorf("deb822: line %q has no field name", line)
			}
			last = strings.ToLower(name)
			current[last] = strings.TrimSpace(value)
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("deb822: %w", err)
	}
	if len(current) > 0 {
		each(current)
	}
	return nil
}

// releaseDate returns the date of a Release or InRelease file, whose signature
// apt has checked.
func releaseDate(text string) (time.Time, error) {
	// The signed text of an InRelease file (RFC 4880, 7).
	if rest, ok := strings.CutPrefix(text, "-----BEGIN PGP SIGNED MESSAGE-----\n"); ok {
		_, text, _ = strings.Cut(rest, "\n\n")
		text, _, _ = strings.Cut(text, "\n-----BEGIN PGP SIGNATURE-----")
	}
	var date string
	err := readRecords(strings.NewReader(text), func(rec record) bool {
		date = rec["date"]
		return date == ""
	})
	if err != nil {
		return time.Time{}, err
	}
	if date == "" {
		return time.Time{}, errors.New("there is no Date in it")
	}
	// The form is RFC 5322's, with "UTC" for the zone.
	for _, layout := range []string{"Mon, _2 Jan 2006 15:04:05 MST", time.RFC1123Z} {
		if t, err := time.Parse(layout, date); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("its Date %q is not understood", date)
}
