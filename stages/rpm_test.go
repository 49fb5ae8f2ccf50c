package stages

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// key signs the packages of cases.
type key struct {
	// home is the folder of the secret key, public the key's public part.
	home, public string
}

// signingKey makes the key of this run of the tests.
var signingKey = sync.OnceValues(func() (*key, error) {
	home, err := os.MkdirTemp("", "key-")
	if err != nil {
		return nil, err
	}
	k := &key{home: home}
	// rpm 4.18 does not know the newer kinds of keys.
	_, err = k.gpg("--quick-generate-key", "--passphrase", "", "cases@example.com", "rsa2048", "sign", "never")
	if err != nil {
		return nil, err
	}
	k.public, err = k.gpg("--armor", "--export")
	return k, err
})

func (k *key) gpg(args ...string) (string, error) {
	cmd := exec.Command("gpg", append([]string{"--homedir", k.home, "--batch", "--yes", "--pinentry-mode", "loopback"}, args...)...)
	out, err := cmd.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		err = fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	return string(out), err
}

// writeRPM builds the package of a spec and puts it at path.
func writeRPM(path, spec string, signed bool) error {
	dir, err := os.MkdirTemp("", "rpm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "case.spec")
	if err := os.WriteFile(file, []byte(spec), 0o644); err != nil {
		return err
	}
	cmd := exec.Command("rpmbuild", "-bb", "--quiet", "--define", "_topdir "+dir, "--define", "_rpmdir "+dir,
		"--define", "_build_name_fmt package.rpm", "--define", "debug_package %{nil}", "--define", "__os_install_post %{nil}",
		"--define", "_buildhost case", "--define", "use_source_date_epoch_as_buildtime 1", file)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("rpmbuild: %w: %s", err, out)
	}
	built := filepath.Join(dir, "package.rpm")
	if signed {
		k, err := signingKey()
		if err != nil {
			return err
		}
		cmd := exec.Command("rpmsign", "--addsign", "--define", "_gpg_name cases@example.com", "--define", "_gpg_path "+k.home, "--define", "__gpg /usr/bin/gpg", built)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("rpmsign: %w: %s", err, out)
		}
	}
	data, err := os.ReadFile(built)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// writeRepository makes metadata for the packages beside path, repodata.
func writeRepository(path string) error {
	cmd := exec.Command("createrepo_c", "--quiet", "--simple-md-filenames", filepath.Dir(path))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("createrepo_c: %w: %s", err, out)
	}
	return nil
}
