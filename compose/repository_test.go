package compose

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// plainExec runs commands without a sandbox: sources and targets of the binds of
// a private configuration are the same.
func plainExec(ctx context.Context, c Command) error {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.Env, c.Stdout, c.Stderr
	return cmd.Run()
}

// repository is a signed repository behind a web server.
type repository struct {
	t        *testing.T
	dir, url string
	// gnupg is the home of the signing key, keyring its public half.
	gnupg, keyring string
	requests       atomic.Int64
	server         *httptest.Server
	// signed counts signatures.
	signed int64
}

// entry is a package of a repository; fields are further lines of its record.
type entry struct{ name, version, fields string }

// standard is what every image asks for, with a kernel.
func standard() []entry {
	all := []entry{
		{"base-files", "12", "Essential: yes\nPriority: required"},
		{"dpkg", "1.21", "Essential: yes\nPriority: required\nDepends: libc6"},
		{"libc6", "2.36-9", "Priority: optional"},
		{"tzdata", "2024a", "Priority: required"},
		{"usr-is-merged", "37", ""},
		{"locales", "2.36-9", ""},
		{"openssh-server", "1:9.2p1-2", "Depends: libc6"},
		{"linux-image-amd64", "6.1.10", "Depends: linux-image-6.1.0-10-amd64"},
		{"linux-image-6.1.0-10-amd64", "6.1.10", ""},
		{"linux-image-6.1.0-9-amd64", "6.1.9", ""},
	}
	for _, n := range append(append([]string{"systemd-timesyncd"}, basePackages...), bootPackages...) {
		all = append(all, entry{n, "1.0", ""})
	}
	for _, n := range buildRootPackages {
		if !strings.Contains("passwd systemd kmod zstd", n) {
			all = append(all, entry{n, "1.0", ""})
		}
	}
	return all
}

func newRepository(t *testing.T, entries []entry) *repository {
	t.Helper()
	r := &repository{t: t, dir: t.TempDir()}
	files := http.FileServer(http.Dir(r.dir))
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.requests.Add(1)
		files.ServeHTTP(w, req)
	}))
	t.Cleanup(r.server.Close)
	// The server is a proxy, so that URLs in manifests are always the same.
	t.Setenv("http_proxy", r.server.URL)
	t.Setenv("no_proxy", "")
	r.url = "http://mirror.invalid/debian"
	r.gnupg, r.keyring = newKey(t)
	r.publish("bookworm", entries)
	return r
}

// newKey makes a key pair; paths of its agent's sockets must be short.
func newKey(t *testing.T) (home, keyring string) {
	t.Helper()
	home, err := os.MkdirTemp("/tmp", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tool(t, home, nil, "gpgconf", "--kill", "all")
		os.RemoveAll(home)
	})
	tool(t, home, nil, "gpg", "--batch", "--passphrase", "", "--quick-generate-key", "archive@example.invalid", "ed25519", "sign", "never")
	keyring = filepath.Join(t.TempDir(), "keys.gpg")
	tool(t, home, nil, "gpg", "--batch", "--output", keyring, "--export")
	return home, keyring
}

func tool(t *testing.T, home string, stdin []byte, argv ...string) []byte {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+home)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s(install apt, gpg and gpgv)", argv, err, stderr.String())
	}
	return out
}

func (r *repository) path(elem ...string) string {
	return filepath.Join(append([]string{r.dir, "debian"}, elem...)...)
}

func (r *repository) write(path, content string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// publish writes and signs the metadata of a suite. The packages themselves are
// not there, for nobody downloads them.
func (r *repository) publish(suite string, entries []entry) {
	r.t.Helper()
	var packages strings.Builder
	for _, e := range entries {
		deb := fmt.Sprintf("%s_%s_amd64.deb", e.name, strings.TrimPrefix(e.version, "1:"))
		fmt.Fprintf(&packages, "Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: nobody\nDescription: test\nFilename: pool/%s\nSize: %d\nSHA256: %x\n",
			e.name, e.version, deb, 1000+len(deb), sha256.Sum256([]byte(deb)))
		if e.fields != "" {
			packages.WriteString(e.fields + "\n")
		}
		packages.WriteString("\n")
	}
	index := "main/binary-amd64/Packages"
	r.write(r.path("dists", suite, index), packages.String())
	release := fmt.Sprintf("Origin: Test\nSuite: %s\nCodename: %[1]s\nDate: Sat, 02 Mar 2024 10:20:30 UTC\nArchitectures: amd64\nComponents: main\nSHA256:\n %x %d %s\n",
		suite, sha256.Sum256([]byte(packages.String())), packages.Len(), index)
	r.write(r.path("dists", suite, "Release"), release)
	r.sign(suite)
}

// sign gives the file a time of its own, for mirrors are asked what changed since
// some second.
func (r *repository) sign(suite string) {
	r.t.Helper()
	release, err := os.ReadFile(r.path("dists", suite, "Release"))
	if err != nil {
		r.t.Fatal(err)
	}
	path := r.path("dists", suite, "InRelease")
	r.write(path, string(tool(r.t, r.gnupg, release, "gpg", "--batch", "--clearsign")))
	r.signed++
	date := time.Unix(1_700_000_000+r.signed, 0)
	if err := os.Chtimes(path, date, date); err != nil {
		r.t.Fatal(err)
	}
}

// options compose from the repository, with an empty state directory.
func (r *repository) options() Options {
	return Options{
		Type: "qcow2", Mirror: r.url, Keyring: r.keyring,
		StateDir: filepath.Join(r.t.TempDir(), "state"), Exec: plainExec,
	}
}

func blueprint(t *testing.T, text string) *Blueprint {
	t.Helper()
	bp, err := ParseBlueprint("blueprint.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return bp
}
