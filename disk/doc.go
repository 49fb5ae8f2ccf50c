// Package disk writes a directory tree as a bootable disk image without root,
// loop devices or mounted filesystems: partition table, filesystems and boot
// loader go straight into an image file.
//
// It writes whole images once. It does not read, resize or repair disks, and it
// does not decide what a system's disk should look like: that is the caller's
// Layout.
//
// The way of the bytes:
//
//	tree --mke2fs -d--> raw image (sparse, at the partition's offset) --+
//	tree --mkfs.vfat, mcopy--> file of its own ------------------------+--> qcow2
//	grub-mkimage --> boot sector and core image in the raw image ------+
//
// A raw image is renamed into place; a qcow2 image is written from these pieces
// by package qcow2, without a copy in between; the other formats are made by
// qemu-img and xz. Tools are looked up in $PATH, GRUB's files in /usr/lib/grub.
//
// The same tree, layout and epoch give the same bytes: identifiers come from
// the layout, clocks from the epoch, and what the tools make up by themselves
// (access and change times, ids in the headers of vmdk, vdi, vpc and vhdx) is
// replaced afterwards. btrfs is the exception: mkfs.btrfs makes up ids that are
// part of every checksum.
package disk
