package rpms

// debianPackages are what the small system is made of.
var debianPackages = []string{
	// A shell, the core utilities and accounts.
	"base-passwd", "bash", "coreutils", "dash", "diffutils", "findutils", "gcc-12-base", "grep", "gzip",
	"hostname", "libacl1", "libattr1", "libaudit-common", "libaudit1", "libblkid1", "libbz2-1.0",
	"libc-bin", "libc6", "libcap-ng0", "libcap2", "libcap2-bin", "libcrypt1", "libdb5.3", "libdebconfclient0", "libgcc-s1", "libgmp10",
	"liblzma5", "libmd0", "libmount1", "libpam-modules", "libpam-modules-bin", "libpam-runtime",
	"libpam0g", "libpcre2-8-0", "libselinux1", "libsemanage-common", "libsemanage2", "libsepol2",
	"libsmartcols1", "libtinfo6", "libuuid1", "libzstd1", "login", "mawk", "mount", "passwd", "sed", "tar",
	"tzdata", "util-linux", "zlib1g",
	// systemd, as far as it is used in a tree.
	"libapparmor1", "libargon2-1", "libcryptsetup12", "libdevmapper1.02.1", "libfdisk1", "libffi8",
	"libgcrypt20", "libgpg-error0", "libip4tc2", "libjson-c5", "libkmod2", "liblz4-1", "libp11-kit0",
	"libseccomp2", "libssl3", "libsystemd-shared", "libsystemd0", "libudev1", "systemd", "systemd-sysv",
	// rpm.
	"libdbus-1-3", "libdw1", "libelf1", "libfsverity0", "libgomp1", "liblua5.3-0", "libmagic-mgc",
	"libmagic1", "libpopt0", "libreadline8", "librpm9", "librpmbuild9", "librpmio9", "librpmsign9",
	"libsqlite3-0", "readline-common", "rpm", "rpm-common",
	// dnf, with its Python.
	"dnf", "dnf-data", "libassuan0", "libbrotli1", "libcom-err2", "libcomps0", "libcurl3-gnutls", "libdnf2",
	"libdnf2-common", "libexpat1", "libglib2.0-0", "libgnutls30", "libgpgme11", "libgssapi-krb5-2", "libhogweed6",
	"libicu72", "libidn2-0", "libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0", "libldap-2.5-0",
	"libmodulemd2", "libncursesw6", "libnettle8", "libnghttp2-14", "libnsl2", "libpsl5", "libpython3-stdlib",
	"libpython3.11", "libpython3.11-minimal", "libpython3.11-stdlib", "librepo0", "librtmp1", "libsasl2-2",
	"libsasl2-modules-db", "libsolv1", "libsolvext1", "libssh2-1", "libstdc++6", "libtasn1-6", "libtirpc-common",
	"libtirpc3", "libunistring2", "libxml2", "libyaml-0-2", "media-types", "python3", "python3-distutils", "python3-dnf",
	"python3-gpg", "python3-hawkey", "python3-lib2to3", "python3-libcomps", "python3-libdnf", "python3-minimal",
	"python3-rpm", "python3.11", "python3.11-minimal",
}

// fedoraNames are the names that converted packages get.
var fedoraNames = map[string]string{
	"base-passwd": "setup",
	"libc6":       "glibc",
	"libc-bin":    "glibc-common",
	"mawk":        "gawk",
	"passwd":      "shadow-utils",
}

// alsoCalled are further names that converted packages provide.
var alsoCalled = map[string][]string{
	"dash":    {"/bin/sh", "/usr/bin/sh"},
	"bash":    {"/bin/bash"},
	"libc6":   {"glibc-minimal-langpack"},
	"mawk":    {"awk"},
	"systemd": {"systemd-udev"},
}

// systemDirs are what the package "filesystem" has.
var systemDirs = []string{
	"boot", "boot/efi", "dev", "etc", "home", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "usr/bin",
	"usr/include", "usr/lib", "usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/libexec", "usr/local", "usr/sbin",
	"usr/share", "usr/share/doc", "usr/share/locale", "usr/share/man", "usr/src", "var", "var/cache", "var/lib",
	"var/log", "var/spool", "var/tmp",
}

// additions are what converted packages lack because scripts of Debian make it.
var additions = map[string]pkg{
	"base-passwd": {
		tags: []string{"Requires(pre): filesystem"},
		files: []file{
			{path: "/etc/passwd", flags: "%config(noreplace)", data: passwd},
			{path: "/etc/group", flags: "%config(noreplace)", data: group},
			{path: "/etc/shadow", flags: "%config(noreplace)", data: "root:*:20000:0:99999:7:::\n", mode: 0o600},
			{path: "/etc/gshadow", flags: "%config(noreplace)", data: "root:*::\n", mode: 0o600},
			{path: "/etc/shells", flags: "%config(noreplace)", data: "/bin/sh\n/bin/bash\n"},
			{path: "/etc/hosts", flags: "%config(noreplace)", data: "127.0.0.1 localhost\n::1 localhost\n"},
		},
	},
	// On Fedora the library brings ldconfig, which runners of build roots start.
	"libc6":    {tags: []string{"Requires: libc-bin"}},
	"libc-bin": {tags: []string{"Requires(pre): /bin/sh"}, scripts: map[string]string{"%transfiletriggerin -P 2000000 -- /usr/lib /usr/lib64": "/usr/sbin/ldconfig"}},
	"mawk":     {files: []file{{path: "/usr/bin/awk", link: "mawk"}}},
	"libpam-runtime": {files: []file{
		{path: "/etc/pam.d/common-auth", data: "auth required pam_unix.so\n"},
		{path: "/etc/pam.d/common-account", data: "account required pam_unix.so\n"},
		{path: "/etc/pam.d/common-password", data: "password required pam_unix.so yescrypt\n"},
		{path: "/etc/pam.d/common-session", data: "session required pam_unix.so\n"},
		{path: "/etc/pam.d/common-session-noninteractive", data: "session required pam_unix.so\n"},
	}},
	"rpm": {tags: []string{"Requires: crypto-policies"}, files: []file{{path: "/etc/rpm/macros", flags: "%config(noreplace)", data: "%_dbpath /usr/lib/sysimage/rpm\n"}}},
}

const passwd = `root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`

const group = `root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
sudo:x:27:
wheel:x:10:
utmp:x:43:
shadow:x:42:
staff:x:50:
users:x:100:
nogroup:x:65534:
`

// kernel has no code in it: it is for those who look for kernels.
func kernel(evr string) []*pkg {
	uname := evr + ".x86_64"
	return []*pkg{
		{name: "kernel", evr: evr, tags: []string{"Requires: kernel-core = " + evr}},
		{name: "kernel-core", evr: evr, tags: []string{"Requires(pre): setup", "Provides: installonlypkg(kernel)"}, files: []file{
			{path: "/boot/vmlinuz-" + uname, data: "no kernel\n", mode: 0o755},
			{path: "/boot/initramfs-" + uname + ".img", data: "no initramfs\n", mode: 0o600},
			{path: "/usr/lib/modules/" + uname + "/"},
			{path: "/usr/lib/modules/" + uname + "/modules.dep"},
		}},
	}
}

// empty makes packages without files.
func empty(names ...string) []*pkg {
	var out []*pkg
	for _, n := range names {
		out = append(out, &pkg{name: n, evr: "1.0-1.fc42", arch: "noarch"})
	}
	return out
}

// small are the packages that are not made of Debian's.
var small = join(
	[]*pkg{{
		name: "filesystem", evr: "3.18-47.fc42", files: filesystem(),
	}, {
		name: "crypto-policies", evr: "20250402-1.fc42", arch: "noarch", files: []file{
			{path: "/usr/share/crypto-policies/back-ends/DEFAULT/rpm-sequoia.config"},
		},
	}, {
		name: "fedora-release", evr: "42-30", arch: "noarch", tags: []string{"Provides: system-release = 42"}, files: []file{
			{path: "/usr/lib/os-release", data: "NAME=\"Fedora Linux\"\nID=fedora\nVERSION_ID=42\nPLATFORM_ID=\"platform:f42\"\nPRETTY_NAME=\"Packages for tests\"\n"},
			{path: "/etc/os-release", link: "../usr/lib/os-release"},
		},
	}},
	kernel("6.14.0-63.fc42"), kernel("6.15.2-200.fc42"),
	// What image builders ask for, where a test needs no more than the name.
	empty("chrony", "dosfstools", "dracut", "dracut-config-generic", "dracut-config-rescue", "e2fsprogs", "glibc-langpack-de",
		"glibc-langpack-en", "grub2-efi-x64-modules", "grub2-pc", "grub2-pc-modules", "grub2-tools", "kmod", "langpacks-en",
		"mtools", "policycoreutils", "xz", "zstd"),
	[]*pkg{
		{name: "openssh-server", evr: "1.0-1.fc42", arch: "noarch", files: []file{
			{path: "/usr/lib/systemd/system/sshd.service", data: "[Service]\nExecStart=/usr/bin/true\n\n[Install]\nWantedBy=multi-user.target\n"},
		}},
		{name: "selinux-policy-targeted", evr: "41.39-1.fc42", arch: "noarch", files: []file{
			{path: "/etc/selinux/targeted/contexts/files/file_contexts", data: "/.*\tsystem_u:object_r:default_t:s0\n"},
		}},

		// Two that exclude each other, and what needs either.
		{name: "test-mta-big", evr: "2.0-1", arch: "noarch", tags: []string{"Provides: test-mta", "Conflicts: test-mta-small"}},
		{name: "test-mta-small", evr: "1.0-1", arch: "noarch", tags: []string{"Provides: test-mta", "Conflicts: test-mta-big"}},
		{name: "test-mail-client", evr: "1.0-1", arch: "noarch", tags: []string{"Requires: test-mta"}},
		{name: "test-rich", evr: "1.0-1", arch: "noarch", tags: []string{"Requires: (test-mta-small or test-nowhere)", "Requires: (test-web if test-mta-big)"}},

		// Weak dependencies, in both directions.
		{name: "test-web", evr: "1.22-1", arch: "noarch", tags: []string{"Recommends: test-web-docs", "Suggests: test-web-extras"}},
		{name: "test-web-docs", evr: "1.22-1", arch: "noarch"},
		{name: "test-web-extras", evr: "1.22-1", arch: "noarch"},
		{name: "test-web-theme", evr: "1.22-1", arch: "noarch", tags: []string{"Supplements: test-web"}},
		{name: "test-web-light", evr: "1.22-1", arch: "noarch"},

		// Two versions in one repository, a third in the updates, and an epoch.
		{name: "test-tool", evr: "1.0-1", arch: "noarch"},
		{name: "test-tool", evr: "1.1-1", arch: "noarch"},
		{name: "test-tool", evr: "2.0-1", arch: "noarch", updates: true},
		{name: "test-needs-old-tool", evr: "1.0-1", arch: "noarch", tags: []string{"Requires: test-tool < 2"}},
		{name: "test-epoch", evr: "5.0-1", arch: "noarch"},
		{name: "test-epoch", evr: "1:3.0-1", arch: "noarch"},
		{name: "test-renamed", evr: "2.0-1", arch: "noarch", tags: []string{"Obsoletes: test-old-name < 2", "Provides: test-old-name = 2"}},
		{name: "test-old-name", evr: "1.0-1", arch: "noarch"},

		// What cannot be installed, or not with a check of signatures.
		{name: "test-broken", evr: "1.0-1", arch: "noarch", tags: []string{"Requires: test-nowhere >= 99"}},
		{name: "test-foreign-arch", evr: "1.0-1", arch: "aarch64"},
		{name: "test-unsigned", evr: "1.0-1", arch: "noarch", key: "none"},
		{name: "test-foreign", evr: "1.0-1", arch: "noarch", key: "other"},
		{name: "test-failing-script", evr: "1.0-1", arch: "noarch", tags: []string{"Requires(pre): bash"},
			scripts: map[string]string{"%pre -p /bin/bash": "echo the script fails on purpose >&2\nexit 1"}},

		// Scripts of every kind, and every kind of file.
		{name: "test-scripts", evr: "1.0-1", arch: "noarch", tags: []string{"Requires(pre): bash coreutils login shadow-utils"}, scripts: map[string]string{
			"%pre -p /bin/bash":       "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin test-daemon\nmkdir -p /var/lib/test-scripts\necho pre $1 >> /var/lib/test-scripts/log",
			"%post -p /bin/bash":      "echo post $1 >> /var/lib/test-scripts/log",
			"%posttrans -p /bin/bash": "echo posttrans $1 >> /var/lib/test-scripts/log",
			"%pretrans -p <lua>":      `posix.mkdir("/test-pretrans")`,
		}, files: []file{{path: "/var/lib/test-scripts/data", data: "data\n", mode: 0o640, owner: "test-daemon,test-daemon"}}},
		{name: "test-files", evr: "1.0-1", arch: "noarch", tags: []string{"Requires(pre): setup"}, files: []file{
			{path: "/etc/test-files.conf", data: "key = value\n", flags: "%config(noreplace)"},
			{path: "/usr/share/doc/test-files/README", data: "Documentation.\n", flags: "%doc"},
			{path: "/usr/share/locale/de/LC_MESSAGES/test-files.mo", data: "Hallo\n", flags: "%lang(de)"},
			{path: "/usr/share/locale/fr/LC_MESSAGES/test-files.mo", data: "Salut\n", flags: "%lang(fr)"},
			{path: "/usr/bin/test-ping", data: "#!/bin/sh\n", mode: 0o755, flags: "%caps(cap_net_raw=ep)"},
			{path: "/usr/bin/test-setuid", data: "#!/bin/sh\n", mode: 0o4755},
			{path: "/usr/bin/test link", link: "test-ping"},
			{path: "/var/spool/test-files/", mode: 0o1777, owner: "root,mail"},
			{path: "/var/log/test-files.log", flags: "%ghost"},
		}},
	},
)

func join(lists ...[]*pkg) []*pkg {
	var all []*pkg
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// filesystem has the directories, and the links of a merged /usr.
func filesystem() []file {
	// What is mounted while packages are installed cannot be given an owner.
	special := map[string]file{
		"proc": {mode: 0o555, flags: "%ghost"}, "sys": {mode: 0o555, flags: "%ghost"},
		"root": {mode: 0o700}, "tmp": {mode: 0o1777}, "var/tmp": {mode: 0o1777},
	}
	var out []file
	for _, d := range systemDirs {
		f := special[d]
		f.path = "/" + d + "/"
		out = append(out, f)
	}
	for _, top := range []string{"bin", "lib", "lib64", "sbin"} {
		out = append(out, file{path: "/" + top, link: "usr/" + top})
	}
	return append(out, file{path: "/var/run", link: "../run"}, file{path: "/var/lock", link: "../run/lock"})
}

// comps are the groups of the repositories.
const comps = `<?xml version="1.0" encoding="UTF-8"?>
<comps>
  <group>
    <id>core</id>
    <name>Core</name>
    <default>true</default>
    <uservisible>false</uservisible>
    <packagelist>
      <packagereq type="mandatory">bash</packagereq>
      <packagereq type="mandatory">coreutils</packagereq>
      <packagereq type="mandatory">diffutils</packagereq>
      <packagereq type="mandatory">filesystem</packagereq>
      <packagereq type="mandatory">findutils</packagereq>
      <packagereq type="mandatory">gawk</packagereq>
      <packagereq type="mandatory">glibc</packagereq>
      <packagereq type="mandatory">glibc-common</packagereq>
      <packagereq type="mandatory">grep</packagereq>
      <packagereq type="mandatory">gzip</packagereq>
      <packagereq type="mandatory">hostname</packagereq>
      <packagereq type="mandatory">libcap2-bin</packagereq>
      <packagereq type="mandatory">login</packagereq>
      <packagereq type="mandatory">rpm</packagereq>
      <packagereq type="mandatory">sed</packagereq>
      <packagereq type="mandatory">setup</packagereq>
      <packagereq type="mandatory">shadow-utils</packagereq>
      <packagereq type="mandatory">systemd-sysv</packagereq>
      <packagereq type="mandatory">tar</packagereq>
      <packagereq type="mandatory">util-linux</packagereq>
      <packagereq type="default">dracut-config-rescue</packagereq>
      <packagereq type="default">fedora-release</packagereq>
      <packagereq type="optional">test-web</packagereq>
    </packagelist>
  </group>
  <environment>
    <id>minimal-environment</id>
    <name>Minimal</name>
    <grouplist>
      <groupid>core</groupid>
    </grouplist>
    <optionlist/>
  </environment>
</comps>
`
