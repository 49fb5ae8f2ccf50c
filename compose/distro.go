package compose

import (
	"fmt"
	"strings"
)

// DebianKeyring has the keys of Debian's archive, and DebianKeyringPackage has it.
const (
	DebianKeyring        = "/usr/share/keyrings/debian-archive-keyring.gpg"
	DebianKeyringPackage = "debian-archive-keyring"
)

// distro is a distribution that blueprints are composed for.
type distro struct {
	name, version string
	// product is what a boot menu calls it.
	product string
	// suite is the archive's name of a release of Debian.
	suite string
	// keyring is the file of the package keyringPackage.
	keyring, keyringPackage string
	// runner prepares build roots made of this distribution.
	runner string
	// kernel is the package used unless the blueprint names one.
	kernel string
	// grubConfig is where the boot loader looks for its configuration.
	grubConfig string
	// rpm is what only distributions of RPM have; nil is Debian.
	rpm *rpmRelease
}

var distros = append([]distro{{
	name: "debian-12", version: "12", product: "Debian GNU/Linux",
	suite:          "bookworm",
	keyring:        DebianKeyring,
	keyringPackage: DebianKeyringPackage,
	runner:         "org.osbuild.debian12",
	kernel:         "linux-image-amd64",
	grubConfig:     "/boot/grub/grub.cfg",
}}, rpmDistros...)

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

// osPackages are what the solver is asked to install into the image.
func (c *composer) osPackages() []request {
	names := c.debianPackages()
	if c.distro.rpm != nil {
		names = c.rpmPackages()
	}
	cust := &c.bp.Customizations
	var out []request
	if kernel := cust.Kernel.Name; kernel != "" {
		out = append(out, request{name: kernel, where: "customizations.kernel.name"})
	} else if c.image.bootable {
		names = append(names, c.distro.kernel)
	}
	for _, n := range names {
		out = append(out, request{name: n})
	}
	for i, g := range c.bp.Groups {
		out = append(out, request{"@" + g.Name, "", fmt.Sprintf("groups[%d]", i)})
	}
	for i, p := range c.bp.Packages {
		out = append(out, request{p.Name, p.Version, fmt.Sprintf("packages[%d]", i)})
	}
	for i, p := range c.bp.Modules {
		out = append(out, request{p.Name, p.Version, fmt.Sprintf("modules[%d]", i)})
	}
	return out
}

// debianPackages are what an image is made of besides the blueprint's packages.
func (c *composer) debianPackages() []string {
	names := append([]string{essential, required, merged}, basePackages...)
	cust := &c.bp.Customizations
	if c.image.bootable {
		names = append(names, bootPackages...)
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
	return names
}

func (c *composer) buildPackages() []request {
	names := append([]string{essential, merged}, buildRootPackages...)
	if c.distro.rpm != nil {
		names = rpmBuildPackages
	}
	var out []request
	for _, n := range names {
		out = append(out, request{name: n})
	}
	return out
}
