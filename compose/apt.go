package compose

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// apt runs apt's programs through Options.Exec.
type apt struct {
	c *composer
	// etc are the files below the host's /etc that reaching a mirror needs.
	etc []Bind
}

// aptPrograms must be there: one of each group. apt 3 checks signatures with
// sqv where earlier ones use gpgv.
var aptPrograms = [][]string{{"apt-get"}, {"apt-cache"}, {"apt-config"}, {"gpgv", "sqv"}}

func newApt(c *composer) (*apt, error) {
	if c.opts.SolverRoot != "" {
		if name := missingProgram(c.opts.SolverRoot); name != "" {
			return nil, fmt.Errorf("the solver root %s has no %s: give the tree of a Debian system with apt and gpgv in it", c.opts.SolverRoot, name)
		}
	} else if name := missingProgram("/"); name != "" {
		return nil, noApt(name, c.distro)
	}
	return &apt{c: c, etc: hostEtc()}, nil
}

// hostEtc are the files below the host's /etc that reaching a mirror needs.
func hostEtc() []Bind {
	var binds []Bind
	for _, name := range []string{
		"ca-certificates", "crypto-policies", "gai.conf", "gnutls", "host.conf", "hosts",
		"nsswitch.conf", "pki", "resolv.conf", "ssl",
	} {
		target := filepath.Join("/etc", name)
		source, err := filepath.EvalSymlinks(target)
		if err == nil {
			binds = append(binds, Bind{Source: source, Target: target})
		}
	}
	return binds
}

// MissingApt returns the first program of apt's that this machine has not, "" if there are all.
func MissingApt() string { return missingProgram("/") }

// missingProgram returns the first program of apt's that a system has not.
func missingProgram(root string) string {
	for _, group := range aptPrograms {
		if !slices.ContainsFunc(group, func(p string) bool {
			_, err := os.Stat(filepath.Join(root, "usr/bin", p))
			return err == nil
		}) {
			return group[0]
		}
	}
	return ""
}

func noApt(program string, d distro) error {
	return fmt.Errorf("%s is not installed, and dependencies are solved by apt: install the packages apt, gpgv and %s (Fedora and Arch have them as well), or give the tree of a Debian system with --solver-root", program, d.keyringPackage)
}

// proxies are the variables that apt's methods and the engine obey.
var proxies = []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}

func environment(extra ...string) []string {
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC", "HOME=/tmp"}
	for _, name := range proxies {
		for _, n := range []string{name, strings.ToUpper(name)} {
			if v, ok := os.LookupEnv(n); ok {
				env = append(env, n+"="+v)
			}
		}
	}
	return append(env, extra...)
}

// output is what a program printed.
type output struct{ stdout, stderr string }

// run runs a program of apt's with the private configuration of an archive.
func (p *apt) run(ctx context.Context, a *archive, argv ...string) (output, error) {
	cmd := Command{
		Argv:    argv,
		Env:     environment("APT_CONFIG=" + filepath.Join(a.dir, "apt.conf")),
		Binds:   append([]Bind{{Source: a.dir, Target: a.dir, Writable: true}}, p.etc...),
		Network: slices.Contains(argv, "update"),
	}
	for _, s := range a.sites {
		if dir, ok := strings.CutPrefix(s.url, "file://"); ok {
			source, err := filepath.EvalSymlinks(dir)
			if err != nil {
				return output{}, fmt.Errorf("mirror %s: %w", s.url, err)
			}
			cmd.Binds = append(cmd.Binds, Bind{Source: source, Target: dir})
		}
	}
	return p.exec(ctx, cmd)
}

// runHost runs a program of apt's with the configuration of the host, or of the
// solver root, and perhaps the lists that are there, which take long to read.
func (p *apt) runHost(ctx context.Context, lists bool, argv ...string) (string, error) {
	cmd := Command{Argv: argv, Env: environment()}
	targets := []string{"/etc/apt"}
	if lists {
		targets = append(targets, "/var/lib/apt/lists")
	} else {
		cmd.Argv = append(slices.Clone(argv), "-o", "Dir::State::lists=/dev/null")
	}
	for _, target := range targets {
		source, err := filepath.EvalSymlinks(filepath.Join("/", p.c.opts.SolverRoot, target))
		if err == nil {
			cmd.Binds = append(cmd.Binds, Bind{Source: source, Target: target})
		}
	}
	out, err := p.exec(ctx, cmd)
	if err != nil {
		return "", fmt.Errorf("read apt's configuration: %s: %w%s", strings.Join(argv[:2], " "), err, firstError(out.stderr))
	}
	return out.stdout, nil
}

func (p *apt) exec(ctx context.Context, cmd Command) (output, error) {
	var stdout, stderr bytes.Buffer
	cmd.Root = p.c.opts.SolverRoot
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if cmd.Network && p.c.opts.Progress != nil {
		cmd.Stdout = io.MultiWriter(&stdout, p.c.opts.Progress)
	}
	err := p.c.opts.Exec(ctx, cmd)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return output{stdout.String(), stderr.String()}, err
}

// firstError is the first of apt's "E:" lines, as a part of a message.
func firstError(stderr string) string {
	for _, line := range strings.Split(stderr, "\n") {
		if e, ok := strings.CutPrefix(line, "E: "); ok {
			return ": " + e
		}
	}
	return ""
}

// setting is a key of apt's configuration and its value.
type setting struct{ key, value string }

// copiedSettings are the keys below which settings of the host's apt are obeyed:
// what it needs to reach its mirrors and to accept their clocks.
var copiedSettings = []string{
	"acquire::http", "acquire::https", "acquire::retries", "acquire::forceipv4", "acquire::forceipv6",
	"acquire::check-valid-until", "acquire::check-date", "acquire::max-validtime", "acquire::max-futuretime",
}

func (p *apt) hostSettings(ctx context.Context) ([]setting, error) {
	text, err := p.runHost(ctx, false, "apt-config", "dump", "--format", "%f %v%n")
	if err != nil {
		return nil, err
	}
	var out []setting
	for _, line := range strings.Split(text, "\n") {
		key, value, _ := strings.Cut(line, " ")
		if value == "" {
			continue
		}
		lower := strings.ToLower(key)
		if slices.ContainsFunc(copiedSettings, func(k string) bool {
			return lower == k || strings.HasPrefix(lower, k+"::")
		}) {
			out = append(out, setting{key, value})
		}
	}
	return out, nil
}

// aptConfig is a configuration in which nothing of the host is read: everything
// is below dir, and no package is installed.
func aptConfig(dir, architecture string, host []setting) string {
	var b strings.Builder
	set := func(key, value string) { fmt.Fprintf(&b, "%s \"%s\";\n", key, strings.ReplaceAll(value, `"`, `%22`)) }
	for _, s := range host {
		set(s.key, s.value)
	}
	for _, s := range []setting{
		{"APT::Architecture", architecture},
		{"APT::Architectures", architecture},
		{"APT::Install-Recommends", "false"},
		{"APT::Install-Suggests", "false"},
		// Only ids that are mapped exist in a user namespace.
		{"APT::Sandbox::User", "root"},
		// Old lists must not be used in place of new ones.
		{"APT::Update::Error-Mode", "any"},
		{"APT::Get::AllowUnauthenticated", "false"},
		{"Acquire::AllowInsecureRepositories", "false"},
		{"Acquire::AllowDowngradeToInsecureRepositories", "false"},
		{"Acquire::AllowWeakRepositories", "false"},
		{"Acquire::Languages", "none"},
		{"Dir::State", dir},
		{"Dir::State::lists", dir + "/lists"},
		{"Dir::State::status", dir + "/status"},
		{"Dir::State::extended_states", dir + "/extended_states"},
		{"Dir::Cache", dir + "/cache"},
		{"Dir::Cache::archives", dir + "/cache/archives"},
		// One of the two caches, 35 MB each, is enough.
		{"Dir::Cache::srcpkgcache", ""},
		{"Dir::Log", dir + "/cache"},
		{"Dir::Etc", dir},
		{"Dir::Etc::main", "/dev/null"},
		{"Dir::Etc::parts", "/dev/null"},
		{"Dir::Etc::netrc", "/dev/null"},
		{"Dir::Etc::netrcparts", "/dev/null"},
		{"Dir::Etc::preferences", "/dev/null"},
		{"Dir::Etc::preferencesparts", "/dev/null"},
		{"Dir::Etc::sourcelist", dir + "/sources.list"},
		{"Dir::Etc::sourceparts", "/dev/null"},
		{"Dir::Etc::trusted", "/dev/null"},
		{"Dir::Etc::trustedparts", "/dev/null"},
		// The directory is locked already.
		{"Debug::NoLocking", "true"},
	} {
		set(s.key, s.value)
	}
	// A mirror that is down is to be noticed soon.
	for _, d := range []setting{
		{"Acquire::Retries", "2"}, {"Acquire::http::Timeout", "30"}, {"Acquire::https::Timeout", "30"},
	} {
		if !slices.ContainsFunc(host, func(s setting) bool { return strings.EqualFold(s.key, d.key) }) {
			set(d.key, d.value)
		}
	}
	return b.String()
}
