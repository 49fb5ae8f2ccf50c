package stages

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
)

const dnfStage = "org.osbuild.dnf"

type dnfOptions struct {
	Repos            []json.RawMessage `json:"repos"`
	Packages         []string          `json:"packages"`
	ReleaseVer       string            `json:"releasever"`
	BaseArch         string            `json:"basearch"`
	Operation        string            `json:"operation"`
	InstallWeakDeps  *bool             `json:"install_weak_deps"`
	FastestMirror    *bool             `json:"fastestmirror"`
	ExcludePackages  []string          `json:"exclude_packages"`
	ModulePlatformID string            `json:"module_platform_id"`
}

// rpmRepo is a repository of RPM packages.
type rpmRepo struct {
	Checksum      string `json:"checksum"`
	Metalink      string `json:"metalink"`
	Mirrorlist    string `json:"mirrorlist"`
	BaseURL       string `json:"baseurl"`
	GPGKey        string `json:"gpgkey"`
	SSLCACert     string `json:"sslcacert"`
	SSLClientCert string `json:"sslclientcert"`
	SSLClientKey  string `json:"sslclientkey"`
}

// installWithDNF solves, downloads and installs packages with the build root's
// dnf. Metadata that is not what the manifest says is refused before anything is
// installed; packages are checked against that metadata, and by the keys of
// repositories that have one.
func installWithDNF(ctx context.Context, args *module.Args, options dnfOptions) (err error) {
	repos, err := dnfRepos(args, options.Repos)
	if err != nil {
		return err
	}
	release, err := mountKernelFilesystems(args, true)
	defer func() { err = errors.Join(err, release()) }()
	if err != nil {
		return err
	}
	restore, err := ownMachineID(args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	dir, err := os.MkdirTemp("", "dnf-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	config, err := writeRepos(dir, "dnf.conf", options.ModulePlatformID, repos)
	if err != nil {
		return err
	}
	base := options.arguments(args.Tree, config)
	if err := runDNF(ctx, args, append(base, "makecache")); err != nil {
		return fmt.Errorf("get the metadata of %d repositories: %w", len(repos), err)
	}
	if err := checkRepos(args, repos); err != nil {
		return err
	}
	operation := options.Operation
	if operation == "" {
		operation = "install"
	}
	argv := append(append(base, operation), options.Packages...)
	for _, name := range options.ExcludePackages {
		argv = append(argv, "--exclude", name)
	}
	if err := runDNF(ctx, args, argv); err != nil {
		return fmt.Errorf("%s packages: %w", operation, err)
	}
	return cleanAfterDNF(args)
}

// arguments are those of every run of dnf.
func (o *dnfOptions) arguments(tree, config string) []string {
	return []string{
		"-yv", "--installroot", tree, "--forcearch", o.BaseArch, "--setopt", "reposdir=",
		"--setopt", "install_weak_deps=" + pythonBool(o.InstallWeakDeps), "--setopt", "fastestmirror=" + pythonBool(o.FastestMirror),
		"--setopt", "skip_if_unavailable=false", "--releasever", o.ReleaseVer, "--noplugins", "--config", config,
		// What was checked is what is used.
		"--setopt", "metadata_expire=never",
	}
}

// pythonBool is how Python writes a boolean; nil is true.
func pythonBool(b *bool) string {
	if b == nil || *b {
		return "True"
	}
	return "False"
}

func runDNF(ctx context.Context, args *module.Args, argv []string) error {
	cmd, err := hostCommand(ctx, args, dnfStage, "dnf", argv...)
	if err != nil {
		return err
	}
	// Scriptlets get the stage's environment.
	cmd.Env = os.Environ()
	return run(cmd)
}

// dnfRepos returns the repositories that stand in the options, then those that
// they name by checksum, which are in the source org.osbuild.dnf.
func dnfRepos(args *module.Args, raw []json.RawMessage) ([]rpmRepo, error) {
	source := args.Sources[dnfStage]
	var secrets struct {
		Repos map[string]rpmRepo `json:"repos"`
	}
	if len(source.Secrets) > 0 && json.Unmarshal(source.Secrets, &secrets) != nil {
		return nil, errors.New("--secrets: what it has for org.osbuild.dnf must be an object with repos by checksum") // without the text, which is secret
	}
	var inline, named []rpmRepo
	for i, text := range raw {
		var repo rpmRepo
		if text[0] != '"' {
			if err := json.Unmarshal(text, &repo); err != nil {
				return nil, fmt.Errorf("repos[%d]: %w", i, err)
			}
			inline = append(inline, repo)
			continue
		}
		var checksum string
		if err := json.Unmarshal(text, &checksum); err != nil {
			return nil, fmt.Errorf("repos[%d]: %w", i, err)
		}
		item, ok := source.Items[checksum]
		if !ok {
			return nil, fmt.Errorf("repos[%d]: the manifest's source %s has no repository %s: add it there, or to the file of --sources", i, dnfStage, checksum)
		}
		if err := json.Unmarshal(item, &repo); err != nil {
			return nil, fmt.Errorf("repository %s: %w", checksum, err)
		}
		repo.Checksum = checksum
		repo.SSLClientCert, repo.SSLClientKey = secrets.Repos[checksum].SSLClientCert, secrets.Repos[checksum].SSLClientKey
		named = append(named, repo)
	}
	return append(inline, named...), nil
}

// writeRepos writes the configuration of dnf or yum, with the keys and
// certificates that belong to it, into dir.
func writeRepos(dir, name, platform string, repos []rpmRepo) (string, error) {
	var out strings.Builder
	if platform != "" {
		fmt.Fprintf(&out, "[main]\nmodule_platform_id=%s\n", platform)
	}
	for i, repo := range repos {
		id := fmt.Sprintf("repo%d", i)
		fmt.Fprintf(&out, "[%s]\nname=%s\n", id, id)
		for _, option := range []struct{ name, value string }{
			{"metalink", repo.Metalink}, {"mirrorlist", repo.Mirrorlist}, {"baseurl", repo.BaseURL},
		} {
			if strings.ContainsAny(option.value, "\r\n") {
				return "", fmt.Errorf("%s of repository %d has more than one line", option.name, i)
			}
			if option.value != "" {
				fmt.Fprintf(&out, "%s=%s\n", option.name, option.value)
			}
		}
		for _, file := range []struct{ name, content, mark string }{
			{"sslcacert", repo.SSLCACert, ""}, {"sslclientcert", repo.SSLClientCert, ""}, {"sslclientkey", repo.SSLClientKey, ""},
			{"gpgkey", repo.GPGKey, "file://"},
		} {
			if file.content == "" {
				continue
			}
			path := filepath.Join(dir, id+"."+file.name)
			if err := os.WriteFile(path, []byte(file.content), 0o600); err != nil {
				return "", err
			}
			fmt.Fprintf(&out, "%s=%s%s\n", file.name, file.mark, path)
		}
		if repo.GPGKey != "" {
			out.WriteString("gpgcheck=1\n")
		}
	}
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(out.String()), 0o600)
}

// checkRepos compares the metadata that dnf has got with the manifest. Its cache
// has a folder for each repository, REPO-DIGEST.
func checkRepos(args *module.Args, repos []rpmRepo) error {
	for i, repo := range repos {
		var found []string
		for _, cache := range dnfCaches {
			dir, err := treeTarget(args, cache)
			if err != nil {
				return err
			}
			files, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("repo%d-*", i), "repodata", "repomd.xml"))
			if err != nil {
				return err
			}
			found = append(found, files...)
		}
		if len(found) != 1 {
			return fmt.Errorf("repository %d: dnf has %d copies of its repomd.xml in its cache: the tree must come without one", i, len(found))
		}
		data, err := os.ReadFile(found[0])
		if err != nil {
			return err
		}
		if sum := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); !strings.EqualFold(sum, repo.Checksum) {
			return fmt.Errorf("repository %d has changed: the manifest has metadata with %s, the repository %s; nothing was installed", i, repo.Checksum, sum)
		}
	}
	return nil
}

// dnfCaches are where dnf 4 and dnf 5 keep metadata and packages.
var dnfCaches = [...]string{"/var/cache/dnf", "/var/cache/libdnf5"}

// cleanAfterDNF empties the caches, and removes what would make systems alike.
func cleanAfterDNF(args *module.Args) error {
	for _, cache := range dnfCaches {
		dir, err := treeTarget(args, cache)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, entry := range entries {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	seed, err := treeEntry(args, "/var/lib/systemd/random-seed")
	if err != nil {
		return err
	}
	if err := os.Remove(seed); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// ownMachineID is fakeMachineID that leaves alone what was there.
func ownMachineID(args *module.Args) (restore func() error, err error) {
	file, err := treeTarget(args, "/etc/machine-id")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(file); err == nil {
		return func() error { return nil }, nil
	}
	if _, err := fakeMachineID(args); err != nil {
		return nil, err
	}
	return func() error { return replaceFile(args, "/etc/machine-id", "") }, nil
}
