package compose

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// fedoraMirror is a mirror of Fedora with made-up packages, behind a web server.
// The packages themselves are not there, for nobody downloads them.
type fedoraMirror struct {
	t        *testing.T
	dir, url string
	// gnupg is the home of the signing key, keyring its public half.
	gnupg, keyring string
	requests       atomic.Int64
	server         *httptest.Server
}

// rpmEntry is a package of a repository. Relations are lines such as
// "Requires: b >= 2".
type rpmEntry struct{ name, evr, arch, relations string }

// standardRPMs is what every image asks for, with two kernels.
func standardRPMs() []rpmEntry {
	all := []rpmEntry{
		{"glibc", "2.41-3.fc42", "x86_64", ""},
		{"bash", "5.2.37-1.fc42", "x86_64", "Requires: glibc"},
		{"dracut-config-rescue", "105-2.fc42", "x86_64", ""},
		{"selinux-policy-targeted", "41.39-1.fc42", "noarch", ""},
		{"kernel", "6.14.0-63.fc42", "x86_64", "Requires: kernel-core = 6.14.0-63.fc42"},
		{"kernel-core", "6.14.0-63.fc42", "x86_64", "Provides: installonlypkg(kernel)"},
		{"kernel-debug-core", "6.14.0-63.fc42", "x86_64", ""},
		{"openssh-server", "0:9.9p1-10.fc42", "x86_64", "Requires: glibc"},
		{"shadow-utils", "2:4.17.0-4.fc42", "x86_64", "Recommends: shadow-docs"},
		{"shadow-docs", "4.17.0-4.fc42", "noarch", ""},
	}
	known := map[string]bool{}
	for _, e := range all {
		known[e.name] = true
	}
	for _, n := range append(append([]string{"chrony", "tzdata", "glibc-langpack-de", "glibc-langpack-en"}, rpmBootPackages...), rpmBuildPackages...) {
		if !known[n] {
			known[n] = true
			all = append(all, rpmEntry{n, "1.0-1.fc42", "noarch", ""})
		}
	}
	return all
}

const fedoraComps = `<?xml version="1.0"?>
<comps><group><id>core</id><name>Core</name><packagelist>
<packagereq type="mandatory">bash</packagereq>
<packagereq type="mandatory">shadow-utils</packagereq>
<packagereq type="default">dracut-config-rescue</packagereq>
<packagereq type="default">selinux-policy-targeted</packagereq>
<packagereq type="optional">chrony</packagereq>
</packagelist></group></comps>
`

func newFedoraMirror(t *testing.T, entries []rpmEntry) *fedoraMirror {
	t.Helper()
	m := &fedoraMirror{t: t, dir: t.TempDir(), url: "http://mirror.invalid/fedora"}
	files := http.FileServer(http.Dir(m.dir))
	m.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		m.requests.Add(1)
		files.ServeHTTP(w, req)
	}))
	t.Cleanup(m.server.Close)
	// The server is a proxy, so that URLs in manifests are always the same.
	t.Setenv("http_proxy", m.server.URL)
	t.Setenv("no_proxy", "")
	m.keyring = filepath.Join(t.TempDir(), "RPM-GPG-KEY")
	m.write(m.keyring, armorBegin+"\n\nthis key checks nothing\n-----END PGP PUBLIC KEY BLOCK-----\n")
	m.publish(fedoraReleases, entries)
	return m
}

const (
	fedoraReleases = "releases/42/Everything/x86_64/os"
	fedoraUpdates  = "updates/42/Everything/x86_64"
)

func (m *fedoraMirror) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir, "fedora"}, elem...)...)
}

func (m *fedoraMirror) write(path, content string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func splitRPM(evr string) (epoch, version, release string) {
	epoch, rest, ok := strings.Cut(evr, ":")
	if !ok {
		epoch, rest = "0", evr
	}
	version, release, _ = strings.Cut(rest, "-")
	return epoch, version, release
}

// relation writes an entry of a relation.
func relationXML(text string) string {
	f := strings.Fields(text)
	if strings.HasPrefix(text, "(") || len(f) == 1 {
		return fmt.Sprintf("<rpm:entry name=\"%s\"/>", html.EscapeString(text))
	}
	epoch, version, release := splitRPM(f[2])
	flags := map[string]string{"=": "EQ", ">=": "GE", "<": "LT", "<=": "LE", ">": "GT"}[f[1]]
	out := fmt.Sprintf("<rpm:entry name=\"%s\" flags=\"%s\" epoch=\"%s\" ver=\"%s\"", f[0], flags, epoch, version)
	if release != "" {
		out += fmt.Sprintf(" rel=\"%s\"", release)
	}
	return out + "/>"
}

func (e rpmEntry) xml() string {
	epoch, version, release := splitRPM(e.evr)
	file := fmt.Sprintf("%s-%s-%s.%s.rpm", e.name, version, release, e.arch)
	relations := map[string]string{"provides": relationXML(e.name + " = " + e.evr)}
	for line := range strings.Lines(e.relations) {
		kind, text, _ := strings.Cut(strings.TrimSpace(line), ": ")
		relations[strings.ToLower(kind)] += relationXML(text)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<package type="rpm"><name>%s</name><arch>%s</arch><version epoch="%s" ver="%s" rel="%s"/>`, e.name, e.arch, epoch, version, release)
	fmt.Fprintf(&b, `<checksum type="sha256" pkgid="YES">%x</checksum><summary>test</summary><description/><packager/><url/>`, sha256.Sum256([]byte(file)))
	fmt.Fprintf(&b, `<time file="1" build="1"/><size package="%d" installed="1" archive="1"/><location href="Packages/%s"/><format>`, 1000+len(file), file)
	for _, kind := range []string{"provides", "requires", "conflicts", "obsoletes", "recommends", "suggests", "supplements"} {
		if relations[kind] != "" {
			fmt.Fprintf(&b, "<rpm:%s>%s</rpm:%[1]s>", kind, relations[kind])
		}
	}
	b.WriteString("</format></package>\n")
	return b.String()
}

// publish writes the metadata of a repository.
func (m *fedoraMirror) publish(repo string, entries []rpmEntry) {
	m.t.Helper()
	var primary, lists strings.Builder
	for _, e := range entries {
		primary.WriteString(e.xml())
	}
	parts := []struct{ kind, file, text string }{
		{"primary", "primary.xml", fmt.Sprintf(`<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="%d">%s</metadata>`, len(entries), primary.String())},
		{"filelists", "filelists.xml", fmt.Sprintf(`<filelists xmlns="http://linux.duke.edu/metadata/filelists" packages="0">%s</filelists>`, lists.String())},
		{"group", "comps.xml", fedoraComps},
	}
	var index strings.Builder
	index.WriteString(`<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision>`)
	for _, p := range parts {
		m.write(m.path(repo, "repodata", p.file), p.text)
		sum := sha256.Sum256([]byte(p.text))
		fmt.Fprintf(&index, `<data type="%s"><checksum type="sha256">%x</checksum><open-checksum type="sha256">%[2]x</open-checksum><location href="repodata/%s"/><timestamp>1745000000.5</timestamp><size>%d</size><open-size>%[4]d</open-size></data>`,
			p.kind, sum, p.file, len(p.text))
	}
	index.WriteString("</repomd>\n")
	m.write(m.path(repo, "repodata/repomd.xml"), index.String())
}

// rewrite changes a part of the metadata and its checksums.
func (m *fedoraMirror) rewrite(part, before, after string) {
	m.t.Helper()
	index := m.path(fedoraReleases, "repodata/repomd.xml")
	data, err := os.ReadFile(index)
	if err != nil {
		m.t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), fmt.Sprintf("%x", sha256.Sum256([]byte(before))), fmt.Sprintf("%x", sha256.Sum256([]byte(after))))
	text = strings.ReplaceAll(text, fmt.Sprintf("size>%d<", len(before)), fmt.Sprintf("size>%d<", len(after)))
	m.write(index, text)
	m.write(m.path(fedoraReleases, "repodata", part), after)
}

// sign signs the metadata of a repository with the key of gnupg.
func (m *fedoraMirror) sign(repo string) {
	m.t.Helper()
	index := m.path(repo, "repodata/repomd.xml")
	data, err := os.ReadFile(index)
	if err != nil {
		m.t.Fatal(err)
	}
	m.write(index+".asc", string(tool(m.t, m.gnupg, data, "gpg", "--batch", "--armor", "--detach-sign")))
}

// options compose from the mirror, with an empty state directory.
func (m *fedoraMirror) options() Options {
	return Options{
		Distro: "fedora-42", Type: "qcow2", Mirror: m.url, Keyring: m.keyring,
		StateDir: filepath.Join(m.t.TempDir(), "state"), Exec: loud(m.t),
	}
}

// loud runs commands as plainExec does, and shows what failed ones said.
func loud(t *testing.T) func(context.Context, Command) error {
	return func(ctx context.Context, c Command) error {
		err := plainExec(ctx, c)
		if said, ok := c.Stderr.(*bytes.Buffer); ok && err != nil {
			t.Logf("%v: %s", c.Argv, said)
		}
		return err
	}
}
