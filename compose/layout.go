package compose

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
)

const (
	sectorSize = 512
	mebibyte   = 1 << 20
	// defaultSize of a disk, in bytes; an image file is sparse.
	defaultSize = 4 << 30
	biosSize    = 1 * mebibyte
	espSize     = 64 * mebibyte
	// overhead is what a disk has besides the root partition: the first MiB
	// with the partition table, the two small partitions and, in the last
	// MiB, the table's backup.
	overhead = mebibyte + biosSize + espSize + mebibyte
)

// Partition types of the UEFI specification (5.3.3), the GRUB manual (BIOS
// installation) and the discoverable partitions specification.
const (
	biosBootType  = "21686148-6449-6E6F-744E-656564454649"
	espType       = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	rootAMD64Type = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
)

// id derives a UUID from the blueprint's name, so that the same blueprint gives
// the same image.
func (c *composer) id(what string) string {
	return uuid.NewSHA1(uuid.Nil, []byte("ossify\x00"+c.bp.Name+"\x00"+what)).String()
}

// volumeID is the id of a FAT filesystem.
func (c *composer) volumeID(what string) string {
	id := strings.ToUpper(c.id(what))
	return id[:4] + "-" + id[4:8]
}

// diskSize in bytes, in whole MiB.
func (c *composer) diskSize() int64 {
	cust := &c.bp.Customizations
	size := int64(cust.Disk.MinSize)
	for _, f := range cust.Filesystems {
		size = max(size, int64(f.MinSize)+overhead)
	}
	if size == 0 {
		size = defaultSize
	}
	return (size + mebibyte - 1) / mebibyte * mebibyte
}

func (c *composer) diskOptions() object {
	size := c.diskSize()
	o := object{
		"filename": c.image.file,
		"format":   c.image.name,
		"size":     size,
		"pttype":   "gpt",
		"ptuuid":   c.id("disk"),
		"partitions": []object{
			{
				"start": mebibyte / sectorSize, "size": biosSize / sectorSize,
				"type": biosBootType, "uuid": c.id("bios partition"), "name": "bios",
			},
			{
				"start": (mebibyte + biosSize) / sectorSize, "size": espSize / sectorSize,
				"type": espType, "uuid": c.id("esp partition"), "name": "esp",
				"filesystem": object{"type": "vfat", "uuid": c.volumeID("esp"), "label": "ESP", "mountpoint": "/boot/efi"},
			},
			{
				"start": (mebibyte + biosSize + espSize) / sectorSize, "size": (size - overhead) / sectorSize,
				"type": rootAMD64Type, "uuid": c.id("root partition"), "name": "root",
				"filesystem": object{"type": "ext4", "uuid": c.id("root"), "label": "root", "mountpoint": "/"},
			},
		},
		"bootloader": object{
			"type": "grub2", "platforms": []string{"i386-pc", "x86_64-efi"}, "config": c.distro.grubConfig,
		},
	}
	if c.image.name == "qcow2" {
		o["compression"] = c.opts.Compression
	}
	return o
}

// bootableKernels are the versions of the kernels; there is at least one.
func (c *composer) bootableKernels() ([]string, error) {
	kernels := c.kernels()
	if len(kernels) == 0 {
		name := c.bp.Customizations.Kernel.Name
		return nil, fmt.Errorf("customizations.kernel.name: the package %q brings no kernel: name one such as %s", name, c.distro.kernel)
	}
	return kernels, nil
}

// cmdline is the kernel's command line without the root filesystem.
func (c *composer) cmdline() string {
	line := "ro console=tty0 console=ttyS0,115200"
	if a := strings.TrimSpace(c.bp.Customizations.Kernel.Append); a != "" {
		line += " " + a
	}
	return line
}

// mountStages make the mount points and the list of the filesystems.
func (c *composer) mountStages(rootOptions string) []stage {
	return []stage{
		{Type: "org.osbuild.mkdir", Options: object{"paths": []object{{"path": "/boot/efi", "mode": 0o755, "parents": true, "exist_ok": true}}}},
		{Type: "org.osbuild.fstab", Options: object{"filesystems": []object{
			{"uuid": c.id("root"), "path": "/", "vfs_type": "ext4", "options": rootOptions, "freq": 0, "passno": 1},
			{"uuid": c.volumeID("esp"), "path": "/boot/efi", "vfs_type": "vfat", "options": "umask=0077", "freq": 0, "passno": 2},
		}}},
	}
}

// bootStages write what the kernel and the boot loader read.
func (c *composer) bootStages() ([]stage, error) {
	root := c.id("root")
	kernels, err := c.bootableKernels()
	if err != nil {
		return nil, err
	}
	var entries []object
	for i, k := range kernels {
		entries = append(entries, object{
			"id": root, "default": i == 0, "kernel": k,
			"product": object{"name": c.distro.product, "version": c.distro.version},
		})
	}
	return append(c.mountStages("errors=remount-ro"),
		stage{Type: "org.osbuild.kernel-cmdline", Options: object{"root_fs_uuid": root, "kernel_opts": c.cmdline()}},
		stage{Type: "org.osbuild.grub2.legacy", Options: object{
			"rootfs":  object{"uuid": root},
			"bios":    object{"platform": "i386-pc"},
			"entries": entries,
			"config":  object{"cmdline": c.cmdline(), "timeout": 1, "distributor": "Debian"},
		}},
	), nil
}
