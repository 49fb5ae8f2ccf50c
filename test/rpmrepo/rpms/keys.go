package rpms

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// keys are the throw-away keys of a repository.
type keys struct{ home string }

// newKeys makes the keys and puts their public halves into a directory.
func newKeys(ctx context.Context, work, dir string) (*keys, error) {
	k := &keys{home: filepath.Join(work, "gpg")}
	if err := os.Mkdir(k.home, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"test", "other"} {
		if err := k.gpg(ctx, "--passphrase", "", "--quick-generate-key", name, "rsa2048", "sign", "never"); err != nil {
			return nil, err
		}
		if err := k.gpg(ctx, "--armor", "--output", filepath.Join(dir, "RPM-GPG-KEY-"+name), "--export", "="+name); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *keys) gpg(ctx context.Context, args ...string) error {
	return run(ctx, k.home, []string{"GNUPGHOME=" + k.home}, append([]string{"gpg", "--batch", "--yes", "--quiet"}, args...)...)
}

// close ends the agent, which nobody needs without its keys.
func (k *keys) close() {
	cmd := exec.Command("gpgconf", "--kill", "all")
	cmd.Env = append(os.Environ(), "GNUPGHOME="+k.home)
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "gpgconf: %v\n%s", err, out)
	}
}

func (k *keys) signPackages(ctx context.Context, dir string, all []*pkg) error {
	byKey := map[string][]string{}
	for _, p := range all {
		_, version, release := splitEVR(p.evr)
		name := fmt.Sprintf("%s-%s-%s.%s.rpm", p.name, version, release, p.architecture())
		key := p.key
		if key == "" {
			key = "test"
		}
		byKey[key] = append(byKey[key], filepath.Join(packagesDir(dir, p), name))
	}
	// rpmsign does not search PATH.
	gpg, err := exec.LookPath("gpg")
	if err != nil {
		return err
	}
	for _, key := range []string{"test", "other"} {
		argv := append([]string{"rpmsign", "--define", "__gpg " + gpg, "--define", "_gpg_name =" + key, "--addsign"}, byKey[key]...)
		if err := run(ctx, k.home, []string{"GNUPGHOME=" + k.home, "HOME=" + k.home}, argv...); err != nil {
			return err
		}
	}
	return nil
}

func (k *keys) signMetadata(ctx context.Context, repo string) error {
	index := filepath.Join(repo, "repodata/repomd.xml")
	return k.gpg(ctx, "--armor", "--local-user", "=test", "--output", index+".asc", "--detach-sign", index)
}
