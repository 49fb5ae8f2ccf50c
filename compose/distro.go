package compose

import (
	"fmt"
	"strings"
)

// distro is a distribution that blueprints are composed for.
type distro struct {
	name, version string
	// suite is the archive's name of the release.
	suite string
	// keyring is the file of the package keyringPackage.
	keyring, keyringPackage string
	// runner prepares build roots made of this distribution.
	runner string
	// kernel is the package used unless the blueprint names one.
	kernel string
}

var distros = []distro{{
	name: "debian-12", version: "12",
	suite:          "bookworm",
	keyring:        "/usr/share/keyrings/debian-archive-keyring.gpg",
	keyringPackage: "debian-archive-keyring",
	runner:         "org.osbuild.debian12",
	kernel:         "linux-image-amd64",
}}

// suites are what an up-to-date system of the release takes packages from.
func (d distro) suites() []string {
	return []string{d.suite, d.suite + "-updates", d.suite + "-security"}
}

func findDistro(name string) (distro, error) {
	var names []string
	for _, d := range distros {
		if d.name == name {
			return d, nil
		}
		names = append(names, d.name)
	}
	return distro{}, fmt.Errorf("unknown distro %q%s: known are %s", name, didYouMean(name, names), strings.Join(names, ", "))
}

// merged keeps apt from choosing usrmerge, which converts running systems and
// brings Perl; trees are made with /usr merged from the start.
const merged = "usr-is-merged"

// Patterns of apt (apt-patterns(7)) for the packages of every system.
const (
	essential = "?essential"
	required  = "?priority(required)"
)

// basePackages are in every tree besides the essential and the required ones:
// what a system needs to start, to reach the network and to install more.
// Recommended packages are left out, as image builders do.
var basePackages = []string{
	"apt", "dbus", "iproute2", "kmod", "libpam-systemd", "passwd", "systemd",
	"systemd-resolved", "systemd-sysv", "udev",
}

// bootPackages are needed besides the kernel where the system starts by itself.
// zstd makes the initramfs faster to write and to read.
var bootPackages = []string{"initramfs-tools", "zstd"}

// buildRootPackages are the tools that stages use, beyond the essential ones.
var buildRootPackages = []string{
	"dosfstools", "e2fsprogs", "grub-common", "grub-efi-amd64-bin", "grub-pc-bin",
	"kmod", "mtools", "passwd", "systemd", "xz-utils", "zstd",
}

// osPackages are what apt is asked to install into the image.
func (c *composer) osPackages() []request {
	names := []string{essential, required, merged}
	names = append(names, basePackages...)
	cust := &c.bp.Customizations
	if c.image.bootable {
		names = append(names, bootPackages...)
	}
	var out []request
	if kernel := cust.Kernel.Name; kernel != "" {
		out = append(out, request{name: kernel, where: "customizations.kernel.name"})
	} else if c.image.bootable {
		names = append(names, c.distro.kernel)
	}
	if len(cust.Timezone.NTPServers) > 0 {
		names = append(names, "systemd-timesyncd")
	}
	if cust.Timezone.Timezone != "" {
		names = append(names, "tzdata")
	}
	if len(c.generatedLocales()) > 0 {
		names = append(names, "locales")
	}
	for _, n := range names {
		out = append(out, request{name: n})
	}
	for i, p := range c.bp.Packages {
		out = append(out, request{p.Name, p.Version, fmt.Sprintf("packages[%d]", i)})
	}
	for i, p := range c.bp.Modules {
		out = append(out, request{p.Name, p.Version, fmt.Sprintf("modules[%d]", i)})
	}
	return out
}

func (c *composer) buildPackages() []request {
	out := []request{{name: essential}, {name: merged}}
	for _, n := range buildRootPackages {
		out = append(out, request{name: n})
	}
	return out
}
