package assemblers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/disk"
	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/qcow2"
)

type qemuOptions struct {
	Format        string           `json:"format"`
	Filename      string           `json:"filename"`
	Size          int64            `json:"size"`
	PTUUID        string           `json:"ptuuid"`
	PTType        string           `json:"pttype"`
	Partitions    []disk.Partition `json:"partitions"`
	RootFSUUID    string           `json:"root_fs_uuid"`
	RootFSType    string           `json:"root_fs_type"`
	Qcow2Compat   string           `json:"qcow2_compat"`
	VMDKSubformat string           `json:"vmdk_subformat"`
	Bootloader    *struct {
		Type     string `json:"type"`
		Platform string `json:"platform"`
	} `json:"bootloader"`
}

// qemu writes the input "tree" as a disk image into the tree, as osbuild's
// assembler of the same name does, but without loop devices.
func qemu(ctx context.Context, args *module.Args, options qemuOptions) error {
	source := args.Inputs["tree"].Path
	if source == "" {
		return errors.New(`the assembler lacks the input "tree"`)
	}
	if options.Partitions != nil && options.RootFSType != "" {
		return errors.New("root_fs_type goes with root_fs_uuid, not with partitions, which say their own: leave it out")
	}
	layout := options.layout()
	loader, err := options.grub(source, layout.TableType)
	if err != nil {
		return err
	}
	spec := disk.Spec{
		Tree:       source,
		Output:     filepath.Join(args.Tree, options.Filename),
		Layout:     layout,
		Bootloader: loader,
		Format: disk.Format{
			Name:      options.Format,
			Compat:    options.Qcow2Compat,
			Subformat: options.VMDKSubformat,
		},
		Epoch: args.Meta.SourceEpoch,
		Log:   os.Stdout,
	}
	if options.Format == "qcow2" {
		spec.Format.Compression = qcow2.Zlib
	}
	return disk.Write(ctx, spec)
}

// layout is the partitions' or, without any, one bootable root filesystem in
// an MBR, which is how this assembler began.
func (o *qemuOptions) layout() disk.Layout {
	l := disk.Layout{TableType: disk.TableType(o.PTType), UUID: o.PTUUID, Size: o.Size, Partitions: o.Partitions}
	if o.PTType == "" || o.PTType == "dos" {
		l.TableType = disk.MBR
	}
	if o.Partitions == nil {
		root := &disk.Filesystem{Type: o.RootFSType, UUID: o.RootFSUUID, Mountpoint: "/"}
		if root.Type == "" {
			root.Type = "ext4"
		}
		l.Partitions = []disk.Partition{{Type: "83", Bootable: true, Filesystem: root}}
	}
	return l
}

// grub returns the boot loader: an MBR has GRUB unless another one is named.
func (o *qemuOptions) grub(tree string, table disk.TableType) (*disk.Bootloader, error) {
	kind, platform := "", ""
	if o.Bootloader != nil {
		kind, platform = o.Bootloader.Type, o.Bootloader.Platform
	}
	switch {
	case kind == "zipl":
		return nil, errors.New("bootloader zipl is for s390x and needs loop devices; this assembler makes disks for x86: use grub2")
	case kind == "" && table != disk.MBR:
		return nil, nil
	}
	if platform == "" {
		platform = disk.GrubBIOS
	}
	if platform != disk.GrubBIOS {
		return nil, fmt.Errorf("bootloader platform %q is not supported, only %s is: use the stage org.ossify.disk for UEFI", platform, disk.GrubBIOS)
	}
	b := &disk.Bootloader{Platforms: []string{platform}, Config: "/boot/grub2/grub.cfg"}
	// Debian keeps it elsewhere.
	if !exists(tree, b.Config) && exists(tree, "/boot/grub/grub.cfg") {
		b.Config = "/boot/grub/grub.cfg"
	}
	return b, nil
}

func exists(tree, path string) bool {
	_, err := os.Lstat(filepath.Join(tree, path))
	return err == nil
}
