package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/ossify/ossify/boot"
	"github.com/ossify/ossify/compose"
	"github.com/ossify/ossify/disk"
	"github.com/ossify/ossify/module"
)

// tool are programs of this machine that builds on it start: it is the build root of manifests
// without a build pipeline, which is where the modules look for them. Of names with "|" between them
// one is enough.
type tool struct {
	name, programs, lost string
}

func tools() []subject {
	var list []subject
	for _, t := range []tool{
		{"ext4, FAT", "mke2fs debugfs mkfs.vfat mcopy mmd", "disk images of compose, and of manifests with org.ossify.disk or org.osbuild.qemu"},
		{"xfs", "mkfs.xfs", "disks with xfs"},
		{"btrfs", "mkfs.btrfs", "disks with btrfs"},
		{"archives", "tar xz zstd", "--export NAME:tar, org.osbuild.tar, compressed images"},
		{"image formats", "qemu-img", "vmdk, vdi, vhdx and ova; qcow2 and raw need nothing"},
		{"installation media", "xorrisofs mksquashfs mkfs.erofs", "ISO images, squashfs, erofs"},
		{"containers in images", "skopeo", "org.osbuild.skopeo and its kin, which put images of containers into trees"},
		{"RPM packages", "rpm rpmkeys", "org.osbuild.rpm on this machine, compose for Fedora, CentOS and RHEL"},
		{"Python", "python3", "osbuild's own modules (--libdir), compose for Fedora, CentOS and RHEL"},
	} {
		list = append(list, subject{t.name, Degraded, t.lost, t.look})
	}
	return append(list,
		subject{"boot loader", Degraded, "disk images that boot, as compose makes them", grub},
		subject{"apt", Degraded, "compose for Debian, unless --solver-root has it", apt},
		subject{"dnf", Degraded, "compose for Fedora, CentOS and RHEL, unless --solver-root has it", dnf},
		subject{"QEMU", Degraded, "boot", qemu},
		subject{"UEFI firmware", Degraded, "boot --firmware uefi", firmware},
		subject{"KVM", Degraded, "speed: boot lets QEMU emulate the processor", kvm},
	)
}

func (t tool) look(context.Context) Check {
	var missing []string
	for _, names := range strings.Fields(t.programs) {
		if !installed(names) {
			missing = append(missing, names)
		}
	}
	return t.result(missing)
}

func (t tool) result(missing []string) Check {
	switch len(missing) {
	case 0:
		return ok("%s", strings.Join(strings.Fields(t.programs), ", "))
	case 1:
		return bad(missing[0]+" is not installed", module.InstallCommand(missing...))
	}
	return bad(strings.Join(missing, ", ")+" are not installed", module.InstallCommand(missing...))
}

// installed says whether one of the programs is where a build root has programs.
func installed(names string) bool {
	for name := range strings.SplitSeq(names, "|") {
		if _, err := module.LookToolIn("/", name); err == nil {
			return true
		}
	}
	return false
}

func grub(context.Context) Check {
	var missing, debian, fedora []string
	if !installed("grub-mkimage|grub2-mkimage") {
		missing, debian, fedora = append(missing, "grub-mkimage"), append(debian, "grub-common"), append(fedora, "grub2-tools")
	}
	for _, p := range []struct{ platform, debian, fedora string }{
		{disk.GrubBIOS, "grub-pc-bin", "grub2-pc-modules"},
		{disk.GrubUEFI, "grub-efi-amd64-bin", "grub2-efi-x64-modules"},
	} {
		if dir := disk.GrubDirectory(p.platform); !exists(dir) {
			missing, debian, fedora = append(missing, dir), append(debian, p.debian), append(fedora, p.fedora)
		}
	}
	if len(missing) > 0 {
		return bad("not there: "+strings.Join(missing, ", "), module.InstallPackages(debian, fedora))
	}
	return ok("GRUB for BIOS and UEFI")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func apt(context.Context) Check {
	fix := module.InstallPackages([]string{"apt", "gpgv", compose.DebianKeyringPackage}, []string{"apt", "gnupg2", "debian-keyring"})
	if name := compose.MissingApt(); name != "" {
		return bad(name+" is not installed", fix)
	}
	if !exists(compose.DebianKeyring) {
		return bad(compose.DebianKeyring+" is not there; --keyring can name another", fix)
	}
	return ok("apt-get, and the keys of Debian")
}

func dnf(ctx context.Context) Check {
	argv := compose.DnfCommand()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + module.ToolPath, "LC_ALL=C.UTF-8", "HOME=/", "PYTHONDONTWRITEBYTECODE=1"}
	cmd.WaitDelay = waitDelay
	err := cmd.Run()
	switch {
	case err == nil:
		return ok("dnf for Python")
	case ctx.Err() != nil:
		return lacking(ctx.Err())
	}
	return bad("dnf for Python is not installed", module.InstallPackages([]string{"python3-dnf"}, []string{"python3-dnf"}))
}

func qemu(context.Context) Check {
	if _, err := exec.LookPath(boot.Emulator); err != nil {
		return bad(boot.Emulator+" is not installed", module.InstallCommand(boot.Emulator))
	}
	return ok(boot.Emulator)
}

func firmware(context.Context) Check {
	if err := boot.CheckFirmware(); err != nil {
		return bad("OVMF is not installed", module.InstallPackages([]string{"ovmf"}, []string{"edk2-ovmf"}))
	}
	return ok("OVMF")
}

func kvm(context.Context) Check {
	err := boot.CheckKVM()
	switch {
	case err == nil:
		return ok("a virtual machine can be made")
	case !exists("/dev/kvm"):
		return bad("there is no /dev/kvm", "sudo modprobe kvm_intel || sudo modprobe kvm_amd # or turn it on in the firmware")
	case os.IsPermission(err):
		return bad("/dev/kvm cannot be opened: permission denied", "sudo usermod --append --groups kvm $USER # and log in again")
	}
	return bad(fmt.Sprintf("/dev/kvm: %v", cause(err)), "sudo dmesg | grep -i kvm # may tell why")
}
