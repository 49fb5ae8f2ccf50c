package module

import (
	"strings"
	"testing"
)

func TestInstallCommand(t *testing.T) {
	debian, fedora := distribution()
	command := InstallCommand("mcopy", "mmd", "newuidmap")
	apt, dnf := "sudo apt-get install mtools uidmap", "sudo dnf install mtools shadow-utils"
	want := apt + " (Debian, Ubuntu) or " + dnf + " (Fedora)"
	switch {
	case debian:
		want = apt
	case fedora:
		want = dnf
	}
	if command != want {
		t.Errorf("%q, want %q", command, want)
	}
	if got := InstallCommand("grub-bios-setup"); !strings.HasSuffix(got, "install grub-pc-bin") {
		t.Errorf("what only Debian has: %q", got)
	}
}
