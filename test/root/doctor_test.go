package root

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

type check struct{ Name, State, Found, Fix, Lost string }

// doctored runs a command that is "ossify doctor --json", and returns its checks by name.
func doctored(t *testing.T, status int, name string, args ...string) map[string]check {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.Output()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != status {
		t.Fatalf("%v, want status %d\n%s", err, status, out)
	}
	var all struct{ Checks []check }
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	checks := map[string]check{}
	for _, c := range all.Checks {
		checks[c.Name] = c
	}
	return checks
}

func (c check) want(t *testing.T, state, found, fix string) {
	t.Helper()
	if c.State != state || !strings.Contains(c.Found, found) || !strings.Contains(c.Fix, fix) {
		t.Errorf("%+v, want %s, %q and %q", c, state, found, fix)
	}
}

// TestDoctor looks at the machine as root, who needs neither subordinate ids nor the helper.
func TestDoctor(t *testing.T) {
	ossify := program(t)
	dir, err := os.MkdirTemp("/var/tmp", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	checks := doctored(t, 0, ossify, "doctor", "--json", "--store", filepath.Join(dir, "store"))
	for _, name := range []string{"subordinate ids", "newuidmap, newgidmap", "ossify-loop"} {
		checks[name].want(t, "ok", "not needed by root", "")
	}
	for _, name := range []string{"user namespaces", "build namespace", "containers", "overlay mounts", "seccomp"} {
		checks[name].want(t, "ok", "", "")
	}

	// Commands for root have no sudo.
	checks = doctored(t, 1, "unshare", "--user", "--map-root-user", "sh", "-c", "echo 0 >/proc/sys/user/max_user_namespaces; exec env -i PATH=/usr/bin:/bin "+ossify+" doctor --json --store "+dir+"/store")
	checks["user namespaces"].want(t, "missing", "max_user_namespaces is 0", "sysctl user.")
	if strings.Contains(checks["user namespaces"].Fix, "sudo") {
		t.Errorf("%+v", checks["user namespaces"])
	}

	// On a root that cannot be id-mapped stages have root's ids.
	checks = doctored(t, 0, "unshare", "--mount", "sh", "-euc", `
		mount --make-rprivate /
		mount -t tmpfs none /mnt
		mkdir /mnt/upper /mnt/work /mnt/root
		mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work none /mnt/root
		for d in proc sys dev var/tmp; do mount --rbind /$d /mnt/root/$d; done
		mkdir -p /mnt/root/mnt
		program=$(realpath "$1")
		: >/mnt/root/mnt/ossify
		mount --bind "$program" /mnt/root/mnt/ossify
		mount --make-private /mnt/root/mnt/ossify
		mkdir /mnt/root/old
		cd /mnt/root
		pivot_root . old
		umount -l /old
		exec /mnt/ossify doctor --json --store "$2"`, "sh", ossify, filepath.Join(dir, "store"))
	checks["build namespace"].want(t, "degraded", "cannot be id-mapped", "as an ordinary user")
}

// TestDoctorHelper looks at a machine with the helper, as somebody in its group and as somebody who
// is not.
func TestDoctorHelper(t *testing.T) {
	p := newPerson(t, program(t))
	words := "cd " + p.home + " && ./ossify doctor --json --store store --helper " + p.helper
	doctored(t, 0, "su", p.name, "-s", "/bin/sh", "-c", words)["ossify-loop"].want(t, "ok", "answers at "+p.helper+", version 1 of its protocol, 0 of 16 leases taken", "")

	// Also who gets at the socket is refused by the helper itself.
	if err := os.Chmod(p.helper, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p.home, 0o755); err != nil {
		t.Fatal(err)
	}
	outside := doctored(t, 1, "su", "nobody", "-s", "/bin/sh", "-c", p.home+"/ossify doctor --json --store /var/tmp/none --helper "+p.helper)
	outside["ossify-loop"].want(t, "degraded", "user nobody is not in the group "+p.name, "sudo usermod --append --groups "+p.name+" nobody")
	outside["subordinate ids"].want(t, "missing", "nobody", "sudo usermod --add-subuids")
}
