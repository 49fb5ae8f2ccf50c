package module

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// ToolPath is the PATH for programs of a build root or tree. A module's own
// PATH may lack the sbin folders, in which most tools of the system lie.
const ToolPath = "/usr/sbin:/usr/bin:/sbin:/bin"

// toolPackages says which package holds a tool, as Debian 12 and Fedora ship
// them; it is a function because a table would be global state.
func toolPackages(tool string) (debian, fedora string) {
	switch tool {
	case "chgrp", "chmod", "chown", "chroot", "cp", "env", "install", "ln", "mkdir", "mv", "rm", "truncate":
		return "coreutils", "coreutils"
	case "debugfs", "dumpe2fs", "e2fsck", "mke2fs", "mkfs.ext2", "mkfs.ext3", "mkfs.ext4", "resize2fs", "tune2fs":
		return "e2fsprogs", "e2fsprogs"
	case "mksquashfs", "unsquashfs":
		return "squashfs-tools", "squashfs-tools"
	case "mkfs.erofs":
		return "erofs-utils", "erofs-utils"
	case "mkfs.xfs", "xfs_admin", "xfs_db", "xfs_repair":
		return "xfsprogs", "xfsprogs"
	case "mkfs.fat", "mkfs.vfat", "fatlabel", "fsck.fat":
		return "dosfstools", "dosfstools"
	case "btrfs", "mkfs.btrfs":
		return "btrfs-progs", "btrfs-progs"
	case "mattrib", "mcopy", "mdir", "mlabel", "mmd":
		return "mtools", "mtools"
	case "grub-editenv", "grub-mkimage", "grub-mkrescue":
		return "grub-common", ""
	case "grub2-editenv", "grub2-mkimage":
		return "", "grub2-tools"
	case "grub-bios-setup":
		return "grub-pc-bin", ""
	case "objcopy":
		return "binutils", "binutils"
	case "veritysetup":
		return "cryptsetup-bin", "veritysetup"
	case "skopeo":
		return "skopeo", "skopeo"
	case "xorrisofs":
		return "xorriso", "xorriso"
	case "qemu-img":
		return "qemu-utils", "qemu-img"
	case "xz":
		return "xz-utils", "xz"
	case "gunzip":
		return "gzip", "gzip"
	case "sha1hmac", "sha224hmac", "sha256hmac", "sha384hmac", "sha512hmac":
		return "", "libkcapi-hmaccalc"
	case "bzip2", "cpio", "gzip", "lzip", "lzop", "tar", "zip", "zstd":
		return tool, tool
	case "lzma":
		return "xz-utils", "xz-lzma-compat"
	case "compress":
		return "ncompress", "ncompress"
	case "dpkg", "dpkg-deb", "dpkg-query", "dpkg-split", "dpkg-trigger", "update-alternatives":
		return "dpkg", "dpkg"
	case "apt", "apt-get", "apt-config":
		return "apt", "apt"
	case "systemctl", "systemd-firstboot", "systemd-sysusers", "systemd-tmpfiles":
		return "systemd", "systemd"
	case "groupadd", "groupmod", "useradd", "userdel", "usermod":
		return "passwd", "shadow-utils"
	case "passwd":
		return "passwd", "passwd"
	case "mkhomedir_helper":
		return "libpam-modules-bin", "pam"
	case "authselect":
		return "", "authselect"
	case "dracut":
		return "dracut-core", "dracut"
	case "firewall-offline-cmd":
		return "firewalld", "firewalld"
	case "initoverlayfs-install":
		return "", "initoverlayfs"
	case "update-crypto-policies":
		return "", "crypto-policies-scripts"
	case "ldconfig":
		return "libc-bin", "glibc"
	case "gpgv":
		return "gpgv", "gnupg2"
	case "dnf", "yum":
		return "dnf", "dnf"
	case "rpm", "rpmkeys":
		return "rpm", "rpm"
	case "sfdisk":
		return "fdisk", "util-linux"
	case "sgdisk":
		return "gdisk", "gdisk"
	case "parted":
		return "parted", "parted"
	case "mkswap":
		return "util-linux", "util-linux"
	case "mount", "umount":
		return "mount", "util-linux-core"
	case "newgidmap", "newuidmap":
		return "uidmap", "shadow-utils"
	case "python3":
		return "python3", "python3"
	case "qemu-system-x86_64":
		return "qemu-system-x86", "qemu-system-x86-core"
	case "zipl":
		return "s390-tools", "s390utils-core"
	case "sh":
		return "dash", "bash"
	}
	return "", ""
}

// MissingTool is the error for a program that a module needs and that the
// build root or tree does not hold.
type MissingTool struct {
	// Tool is the program's name without a directory.
	Tool string
	// Where says in words what was searched, such as "the build root".
	Where string
}

// Error names the tool, where it was searched, and the package to install.
func (e *MissingTool) Error() string {
	text := fmt.Sprintf("%s is not in %s", e.Tool, e.Where)
	debian, fedora := toolPackages(e.Tool)
	switch {
	case debian == "" && fedora == "":
		return text + ": install the package that holds it"
	case fedora == "":
		return fmt.Sprintf("%s: install package %s (Debian)", text, debian)
	case debian == "":
		return fmt.Sprintf("%s: install package %s (Fedora)", text, fedora)
	case debian == fedora:
		return fmt.Sprintf("%s: install package %s (Debian and Fedora)", text, debian)
	}
	return fmt.Sprintf("%s: install package %s (Debian) or %s (Fedora)", text, debian, fedora)
}

// InstallCommand is the command that installs the packages of programs on this machine, or what there
// is for Debian and for Fedora if it is neither.
func InstallCommand(tools ...string) string {
	var debian, fedora []string
	add := func(list *[]string, name string) {
		if name != "" && !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
	}
	for _, tool := range tools {
		d, f := toolPackages(tool)
		add(&debian, d)
		add(&fedora, f)
	}
	return InstallPackages(debian, fedora)
}

// InstallPackages is InstallCommand for packages by their names in Debian and Fedora.
func InstallPackages(debian, fedora []string) string {
	apt := "sudo apt-get install " + strings.Join(debian, " ")
	dnf := "sudo dnf install " + strings.Join(fedora, " ")
	likeDebian, likeFedora := distribution()
	switch {
	case len(fedora) == 0 || likeDebian && len(debian) > 0:
		return apt
	case len(debian) == 0 || likeFedora:
		return dnf
	}
	return fmt.Sprintf("%s (Debian, Ubuntu) or %s (Fedora)", apt, dnf)
}

// distribution says what this machine runs, or something derived from it (os-release(5)).
func distribution() (debian, fedora bool) {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		data, _ = os.ReadFile("/usr/lib/os-release") // neither is known then
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name != "ID" && name != "ID_LIKE" {
			continue
		}
		for _, id := range strings.Fields(strings.Trim(value, `"'`)) {
			debian = debian || id == "debian" || id == "ubuntu"
			fedora = fedora || id == "fedora" || id == "rhel" || id == "centos"
		}
	}
	return debian, fedora
}

// LookTool returns the absolute path of a program of the build root, which is
// where the calling module runs. It searches PATH and then ToolPath; if the
// program is in neither, the error is a *MissingTool.
func LookTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil && filepath.IsAbs(path) {
		return path, nil
	}
	for _, dir := range strings.Split(ToolPath, ":") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", &MissingTool{Tool: name, Where: "the build root"}
}

// LookToolIn returns the path of a program below root as a process sees it
// that has root as its root directory, or a *MissingTool. Symbolic links are
// followed inside root only.
func LookToolIn(root, name string) (string, error) {
	for _, dir := range strings.Split(ToolPath, ":") {
		path := filepath.Join(dir, name)
		host, err := securejoin.SecureJoin(root, path)
		if err != nil {
			continue
		}
		if info, err := os.Stat(host); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", &MissingTool{Tool: name, Where: "the tree"}
}
