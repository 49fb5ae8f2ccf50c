package compose

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// dnfProgram asks dnf; its first lines say how.
//
//go:embed dnf_solver.py
var dnfProgram string

// python is not looked up in PATH, where another one, without dnf, may come first.
const python = "/usr/bin/python3"

// rpmArchitecture is what RPM calls amd64.
const rpmArchitecture = "x86_64"

// dnf is the metadata of some repositories of RPM, kept in a directory of its own:
//
//	dnf_solver.py question.json   what dnf is asked
//	keys/                         keys that dnf checks metadata with
//	host/                         a copy of the host's configuration of dnf, if used
//	dnf/ dnf5/                    what dnf downloads and derives
//	fresh                         the repositories as of the last update
//	solved/                       solutions, valid for that metadata
//	lock                          held while a composer uses it
type dnf struct {
	c   *composer
	dir string
	// asked are the repositories that dnf is told of, found those it has.
	asked []rpmRepository
	found []rpmRepository
	// binds are what dnf needs to reach a mirror.
	binds []Bind
	// keys are texts by the URLs that repositories name them with.
	keys map[string]string
}

// rpmRepository is a repository in the words of dnf's configuration.
type rpmRepository struct {
	ID         string   `json:"id"`
	Name       string   `json:"name,omitempty"`
	BaseURL    []string `json:"baseurl,omitempty"`
	Metalink   string   `json:"metalink,omitempty"`
	Mirrorlist string   `json:"mirrorlist,omitempty"`
	GPGKey     []string `json:"gpgkey,omitempty"`
	GPGCheck   bool     `json:"gpgcheck"`
	// RepoGPGCheck asks for a signature of the metadata.
	RepoGPGCheck   bool  `json:"repo_gpgcheck"`
	SSLVerify      bool  `json:"sslverify"`
	Priority       *int  `json:"priority,omitempty"`
	ModuleHotfixes *bool `json:"module_hotfixes,omitempty"`
	// The rest comes from dnf only; Reasons are why mirrors failed.
	SSLClientCert string   `json:"sslclientcert,omitempty"`
	Error         string   `json:"error,omitempty"`
	Reasons       []string `json:"reasons,omitempty"`

	optional bool
}

// where is the repository's place, for messages.
func (r rpmRepository) where() string {
	switch {
	case len(r.BaseURL) > 0:
		return r.ID + " at " + r.BaseURL[0]
	case r.Metalink != "":
		return r.ID + " at " + r.Metalink
	}
	return r.ID + " at " + r.Mirrorlist
}

// question is what dnf_solver.py is asked.
type question struct {
	Command      string            `json:"command"`
	State        string            `json:"state"`
	Root         string            `json:"root"`
	Host         string            `json:"host"`
	Arch         string            `json:"arch"`
	Releasever   string            `json:"releasever"`
	Platform     string            `json:"platform"`
	Repositories []rpmRepository   `json:"repositories"`
	LeaveOut     []string          `json:"leave_out"`
	Install      []questionRequest `json:"install"`
	Exclude      []string          `json:"exclude"`
	Weak         bool              `json:"weak"`
}

type questionRequest struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// answer is what it says.
type answer struct {
	NoDnf        bool            `json:"no_dnf"`
	Repositories []rpmRepository `json:"repositories"`
	Packages     []rpmPackage    `json:"packages"`
	// Unreadable is why metadata that has been downloaded is of no use.
	Unreadable string `json:"unreadable"`
	// Problem is why there is no solution; Missing are requests that match
	// nothing, with what there is instead.
	Problem  string              `json:"problem"`
	Missing  []string            `json:"missing"`
	Names    []string            `json:"names"`
	Groups   []string            `json:"groups"`
	Versions map[string][]string `json:"versions"`
}

type rpmPackage struct {
	Name       string   `json:"name"`
	Epoch      string   `json:"epoch"`
	Version    string   `json:"version"`
	Release    string   `json:"release"`
	Arch       string   `json:"arch"`
	Repository string   `json:"repository"`
	URLs       []string `json:"urls"`
	Size       int64    `json:"size"`
	Algorithm  string   `json:"algorithm"`
	Checksum   string   `json:"checksum"`
}

// openDnf decides which repositories to use and locks the directory for them;
// release gives it free.
func openDnf(ctx context.Context, c *composer) (_ *dnf, release func(), err error) {
	if _, err := os.Stat(filepath.Join("/", c.opts.SolverRoot, python)); err != nil {
		return nil, nil, noDnf(c)
	}
	d := &dnf{c: c, binds: hostEtc(), keys: map[string]string{}}
	host, err := d.repositories()
	if err != nil {
		return nil, nil, err
	}
	identity, err := json.Marshal([]any{c.distro.name, d.asked, d.keys, host})
	if err != nil {
		return nil, nil, fmt.Errorf("internal error: %w", err)
	}
	sum := sha256.Sum256(identity)
	d.dir = filepath.Join(c.opts.StateDir, c.distro.name+"-"+hex.EncodeToString(sum[:8]))
	for _, sub := range []string{"root", "solved", "keys", "host/yum.repos.d", "host/vars"} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o755); err != nil {
			return nil, nil, fmt.Errorf("make directory for repository metadata: %w", err)
		}
	}
	// Symbolic links on the way would not exist for a confined dnf.
	if d.dir, err = filepath.EvalSymlinks(d.dir); err != nil {
		return nil, nil, err
	}
	release, err = lockFile(ctx, filepath.Join(d.dir, "lock"))
	if err != nil {
		return nil, nil, err
	}
	files := map[string]string{"dnf_solver.py": dnfProgram}
	for name, content := range host {
		files[filepath.Join("host", name)] = content
	}
	for url, content := range d.keys {
		files[filepath.Join("keys", keyFile(url))] = content
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(content), 0o644); err != nil {
			release()
			return nil, nil, fmt.Errorf("write dnf's configuration: %w", err)
		}
	}
	return d, release, nil
}

// keyFile names a copy of a key.
func keyFile(url string) string {
	sum := sha256.Sum256([]byte(url))
	return hex.EncodeToString(sum[:8])
}

// DnfCommand is a command that fails where dnf_solver.py would find no dnf.
func DnfCommand() []string {
	return []string{python, "-c", "try: import dnf, hawkey\nexcept ImportError: import libdnf5"}
}

func noDnf(c *composer) error {
	if c.opts.SolverRoot != "" {
		return fmt.Errorf("the solver root %s has no dnf for Python: give the tree of a system with python3-dnf or python3-libdnf5 in it", c.opts.SolverRoot)
	}
	return errors.New("dnf for Python is not installed, and dependencies are solved by dnf: install the package python3-dnf or python3-libdnf5 (Debian has them as well), or give the tree of a system that has one with --solver-root")
}

// ask runs dnf_solver.py. What dnf prints on standard error is returned too.
func (d *dnf) ask(ctx context.Context, q *question) (*answer, string, error) {
	q.State, q.Root = d.dir, filepath.Join(d.dir, "root")
	q.Arch, q.Releasever, q.Platform = rpmArchitecture, d.c.distro.rpm.releasever, d.c.distro.rpm.platform
	if d.usesHost() {
		q.Host = filepath.Join(d.dir, "host")
	}
	q.Repositories = []rpmRepository{}
	for _, r := range d.asked {
		for i, url := range r.GPGKey {
			if i == 0 {
				r.GPGKey = slices.Clone(r.GPGKey)
			}
			r.GPGKey[i] = "file://" + filepath.Join(d.dir, "keys", keyFile(url))
		}
		q.Repositories = append(q.Repositories, r)
	}
	data, err := json.Marshal(q)
	if err != nil {
		return nil, "", fmt.Errorf("internal error: %w", err)
	}
	path := filepath.Join(d.dir, "question.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return nil, "", fmt.Errorf("write dnf's configuration: %w", err)
	}
	var stdout, stderr bytes.Buffer
	err = d.c.opts.Exec(ctx, Command{
		Argv:    []string{python, "-B", filepath.Join(d.dir, "dnf_solver.py"), path},
		Env:     environment(),
		Root:    d.c.opts.SolverRoot,
		Binds:   append([]Bind{{Source: d.dir, Target: d.dir, Writable: true}}, d.binds...),
		Network: q.Command == "refresh",
		Stdout:  &stdout, Stderr: &stderr,
	})
	if ctx.Err() != nil {
		return nil, "", ctx.Err()
	}
	if err != nil {
		return nil, "", fmt.Errorf("dnf: %w: %s", err, lastLine(stderr.String()))
	}
	a := &answer{}
	if err := json.Unmarshal(stdout.Bytes(), a); err != nil {
		return nil, "", fmt.Errorf("dnf gave an answer that is not understood: %w", err)
	}
	if a.NoDnf {
		return nil, "", noDnf(d.c)
	}
	return a, stderr.String(), nil
}

// lastLine is where Python says what a traceback is about.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// update asks the mirrors what changed, unless that was done a short time ago. A
// repository that may be missing and is missing is left out.
func (d *dnf) update(ctx context.Context) error {
	fresh := filepath.Join(d.dir, "fresh")
	if info, err := os.Stat(fresh); err == nil && d.c.opts.MaxAge > 0 {
		if age := time.Since(info.ModTime()); age >= 0 && age < d.c.opts.MaxAge {
			data, err := os.ReadFile(fresh)
			if err == nil {
				err = json.Unmarshal(data, &d.found)
			}
			if err != nil {
				return fmt.Errorf("read repository metadata: %w", err)
			}
			return d.readKeys()
		}
	}
	before, err := d.metadataDigest()
	if err != nil {
		return err
	}
	a, stderr, err := d.ask(ctx, &question{Command: "refresh", LeaveOut: []string{}, Install: []questionRequest{}, Exclude: []string{}})
	if err != nil {
		return err
	}
	d.found = nil
	for _, r := range a.Repositories {
		if r.Error == "" {
			d.found = append(d.found, r)
			if d.c.opts.Progress != nil {
				fmt.Fprintf(d.c.opts.Progress, "metadata of %s is up to date\n", r.where())
			}
			continue
		}
		failure := explainRefresh(r, stderr)
		i := slices.IndexFunc(d.asked, func(o rpmRepository) bool { return o.ID == r.ID })
		if i < 0 || !d.asked[i].optional || !failure.missing() {
			return failure.forPeople(d)
		}
	}
	if len(d.found) == 0 {
		return fmt.Errorf("dnf has no repository that is enabled for %s: give a mirror with --mirror", d.c.distro.name)
	}
	after, err := d.metadataDigest()
	if err != nil {
		return err
	}
	if before != after {
		if err := forgetSolutions(d.dir); err != nil {
			return err
		}
	}
	data, err := json.Marshal(d.found)
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	if err := os.WriteFile(fresh, data, 0o644); err != nil {
		return fmt.Errorf("note update of repository metadata: %w", err)
	}
	return d.readKeys()
}

// indexes returns the repomd.xml files that dnf keeps for repositories in use.
func (d *dnf) indexes() ([]string, error) {
	var out []string
	for _, r := range d.found {
		paths, err := filepath.Glob(filepath.Join(d.dir, "dnf*", r.ID+"-*", "repodata/repomd.xml"))
		if err != nil {
			return nil, fmt.Errorf("read repository metadata: %w", err)
		}
		out = append(out, paths...)
	}
	slices.Sort(out)
	return out, nil
}

func (d *dnf) metadataDigest() (string, error) {
	paths, err := filepath.Glob(filepath.Join(d.dir, "dnf*/*/repodata/repomd.xml"))
	if err != nil {
		return "", fmt.Errorf("read repository metadata: %w", err)
	}
	return filesDigest(paths)
}

// epoch is the newest time in the repomd.xml files, in seconds since 1970.
func (d *dnf) epoch() (int64, error) {
	paths, err := d.indexes()
	if err != nil {
		return 0, err
	}
	var newest int64
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return 0, fmt.Errorf("read repository metadata: %w", err)
		}
		var index struct {
			Data []struct {
				// Some tools write a fraction.
				Timestamp float64 `xml:"timestamp"`
			} `xml:"data"`
		}
		if err := xml.Unmarshal(data, &index); err != nil {
			return 0, fmt.Errorf("%s: %w", p, err)
		}
		for _, part := range index.Data {
			newest = max(newest, int64(part.Timestamp))
		}
	}
	if newest == 0 {
		return 0, errors.New("the metadata of the repositories has no time: they cannot be pinned")
	}
	return newest, nil
}

// solve returns all packages that dnf would install into an empty system, sorted
// by name. A solution is kept for as long as the metadata stays the same.
func (d *dnf) solve(ctx context.Context, requests []request) ([]pinned, error) {
	q := &question{
		Command: "solve", LeaveOut: []string{}, Weak: d.c.opts.WeakDependencies,
		Exclude: append(slices.Clone(rpmExcluded), d.c.opts.Exclude...),
	}
	for _, r := range d.asked {
		if !slices.ContainsFunc(d.found, func(f rpmRepository) bool { return f.ID == r.ID }) {
			q.LeaveOut = append(q.LeaveOut, r.ID)
		}
	}
	for _, r := range requests {
		v := r.version
		if v == "*" {
			v = ""
		}
		q.Install = append(q.Install, questionRequest{r.name, v})
	}
	key, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	sum := sha256.Sum256(append(key, dnfProgram...))
	cached := filepath.Join(d.dir, "solved", hex.EncodeToString(sum[:]))
	var a *answer
	if data, err := os.ReadFile(cached); err == nil {
		a = &answer{}
		if err := json.Unmarshal(data, a); err != nil {
			return nil, fmt.Errorf("read solution %s: %w", cached, err)
		}
		return d.pin(a.Packages)
	}
	if a, _, err = d.ask(ctx, q); err != nil {
		return nil, err
	}
	if a.Packages == nil {
		return nil, d.explainSolve(q, requests, a)
	}
	packages, err := d.pin(a.Packages)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	return packages, keepSolution(cached, data)
}

// checksums are those that a download is pinned by.
var checksums = []string{"sha256", "sha384", "sha512"}

// pin makes packages of a manifest of dnf's.
func (d *dnf) pin(packages []rpmPackage) ([]pinned, error) {
	var out []pinned
	for _, p := range packages {
		i := slices.IndexFunc(d.found, func(r rpmRepository) bool { return r.ID == p.Repository })
		if i < 0 {
			return nil, fmt.Errorf("internal error: dnf takes %s from the repository %q, which it has not", p.Name, p.Repository)
		}
		r := d.found[i]
		if !slices.Contains(checksums, p.Algorithm) {
			return nil, fmt.Errorf("the repository %s gives no sha256 for %s: it cannot be pinned", r.where(), p.Name)
		}
		urls, err := fetchable(p.URLs)
		if err != nil {
			return nil, fmt.Errorf("repository %s: %s: %w", r.where(), p.Name, err)
		}
		version := p.Version + "-" + p.Release + "." + p.Arch
		if p.Epoch != "0" {
			version = p.Epoch + ":" + version
		}
		out = append(out, pinned{
			name: p.Name, version: version, url: urls[0], mirrors: urls[1:], size: p.Size, checksum: p.Algorithm + ":" + p.Checksum,
			secrets: secretsOf(r.SSLClientCert), insecure: !r.SSLVerify, signed: r.GPGCheck,
		})
	}
	slices.SortFunc(out, func(a, b pinned) int {
		return strings.Compare(a.name+" "+a.version, b.name+" "+b.version)
	})
	return out, nil
}

// maxMirrors bounds how many places of a package are in a manifest.
const maxMirrors = 4

// fetchable returns the URLs that the engine can fetch; there is at least one.
func fetchable(urls []string) (out []string, err error) {
	err = errors.New("there is no URL for it")
	for _, u := range urls {
		where, e := normalURL(u)
		if e != nil {
			err = e
			continue
		}
		if len(out) < maxMirrors && !slices.Contains(out, where) {
			out = append(out, where)
		}
	}
	if len(out) == 0 {
		return nil, err
	}
	return out, nil
}

// secretsOf names who provides the client certificate that a repository asks for.
func secretsOf(certificate string) string {
	switch {
	case certificate == "":
		return ""
	case strings.HasPrefix(certificate, "/etc/pki/entitlement"):
		return "org.osbuild.rhsm"
	}
	return "org.osbuild.mtls"
}
