package compose

import (
	"strings"

	"github.com/ossify/ossify/pattern"
)

// rpmRelease is what distributions of RPM have besides Debian's kind.
type rpmRelease struct {
	// id and version are those of os-release, by which a host is recognised.
	id, version string
	// releasever and platform are dnf's; platform tells modules what fits.
	releasever, platform string
	// repositories are those below a mirror laid out as the distribution's.
	repositories []mirrored
	// dbpath is where rpm of that release keeps its database.
	dbpath string
}

// mirrored is a repository of a mirror.
type mirrored struct {
	id, path string
	// optional ones are left out if the mirror has them not.
	optional bool
}

// The path of the keys is that of the package distribution-gpg-keys, which
// Fedora, its kin and Debian have.
const (
	gpgKeys        = "/usr/share/distribution-gpg-keys/"
	gpgKeysPackage = "distribution-gpg-keys"
)

var rpmDistros = []distro{
	fedora("42"), fedora("43"),
	enterprise("centos", "9", "CentOS Stream", "centos/RPM-GPG-KEY-CentOS-Official", "9-stream/BaseOS/x86_64/os", "9-stream/AppStream/x86_64/os"),
	enterprise("centos", "10", "CentOS Stream", "centos/RPM-GPG-KEY-CentOS-Official-SHA256", "10-stream/BaseOS/x86_64/os", "10-stream/AppStream/x86_64/os"),
	enterprise("rhel", "9", "Red Hat Enterprise Linux", "redhat/RPM-GPG-KEY-redhat9-release", "content/dist/rhel9/9/x86_64/baseos/os", "content/dist/rhel9/9/x86_64/appstream/os"),
	enterprise("rhel", "10", "Red Hat Enterprise Linux", "redhat/RPM-GPG-KEY-redhat10-release", "content/dist/rhel10/10/x86_64/baseos/os", "content/dist/rhel10/10/x86_64/appstream/os"),
}

func fedora(version string) distro {
	return distro{
		name: "fedora-" + version, version: version, product: "Fedora Linux",
		keyring: gpgKeys + "fedora/RPM-GPG-KEY-fedora-" + version + "-primary", keyringPackage: gpgKeysPackage,
		runner: "org.osbuild.fedora" + version, kernel: "kernel", grubConfig: rpmGrubConfig,
		rpm: &rpmRelease{
			id: "fedora", version: version, releasever: version, platform: "platform:f" + version,
			repositories: []mirrored{
				{id: "fedora", path: "releases/" + version + "/Everything/x86_64/os"},
				{id: "updates", path: "updates/" + version + "/Everything/x86_64", optional: true},
			},
			dbpath: "/usr/lib/sysimage/rpm",
		},
	}
}

func enterprise(id, version, product, keyring, baseOS, appStream string) distro {
	d := distro{
		name: id + "-" + version, version: version, product: product,
		keyring: gpgKeys + keyring, keyringPackage: gpgKeysPackage,
		runner: "org.osbuild." + id + version, kernel: "kernel", grubConfig: rpmGrubConfig,
		rpm: &rpmRelease{
			id: id, version: version, releasever: version, platform: "platform:el" + version,
			repositories: []mirrored{{id: "baseos", path: baseOS}, {id: "appstream", path: appStream}},
			dbpath:       "/usr/lib/sysimage/rpm",
		},
	}
	if version == "9" {
		d.rpm.dbpath = "/var/lib/rpm"
	}
	if id == "rhel" {
		// Runners of RHEL are named for a minor release too.
		d.runner += "0"
	}
	return d
}

// rpmBasePackages are in every tree: the group that the distribution itself
// takes for the least that is a system.
var rpmBasePackages = []string{"@core"}

// rpmBootPackages are needed besides the kernel where the system starts by
// itself. An initramfs of dracut has only the drivers of the machine that made
// it, unless dracut-config-generic is there.
var rpmBootPackages = []string{"dracut-config-generic", "grub2-tools"}

// rpmExcluded are packages of the group that images do without: a rescue entry
// of the boot menu would be that of the machine that builds.
var rpmExcluded = []string{"dracut-config-rescue"}

// rpmBuildPackages are the tools that stages use.
var rpmBuildPackages = []string{
	"bash", "coreutils", "dosfstools", "e2fsprogs", "glibc", "grub2-efi-x64-modules", "grub2-pc-modules",
	"grub2-tools", "kmod", "mtools", "policycoreutils", "python3", "rpm", "shadow-utils", "systemd",
	"tar", "util-linux", "xz", "zstd",
}

// rpmPackages are what an image is made of besides the blueprint's packages.
func (c *composer) rpmPackages() []string {
	names := append([]string{}, rpmBasePackages...)
	cust := &c.bp.Customizations
	if c.image.bootable {
		names = append(names, rpmBootPackages...)
	}
	if len(cust.Timezone.NTPServers) > 0 {
		names = append(names, "chrony")
	}
	if cust.Timezone.Timezone != "" {
		names = append(names, "tzdata")
	}
	for _, l := range c.generatedLocales() {
		name, _, _ := strings.Cut(l, "_")
		names = append(names, "glibc-langpack-"+name)
	}
	return names
}

var rpmKernelPackage = pattern.New(`^kernel(?:-(.+))?-core$`)

// rpmKernel returns what "uname -r" says in a kernel's package, or "" for others.
func rpmKernel(p pinned) string {
	m := rpmKernelPackage().FindStringSubmatch(p.name)
	if m == nil || strings.HasSuffix(m[1], "modules") {
		return ""
	}
	_, uname, ok := strings.Cut(p.version, ":")
	if !ok {
		uname = p.version
	}
	if m[1] != "" {
		uname += "+" + m[1]
	}
	return uname
}
