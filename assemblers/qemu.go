package assemblers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/ossify/ossify/disk"
	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/qcow2"
	"github.com/ossify/ossify/record"
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
	spec, err := newSpec(args, options.Filename)
	if err != nil {
		return err
	}
	spec.Layout = options.layout()
	spec.Format = options.format()
	if spec.Bootloader, err = options.grub(spec.Tree, spec.Layout.TableType); err != nil {
		return err
	}
	return disk.Write(ctx, *spec)
}

// newSpec is what all assemblers of images ask for: the input "tree" in a file of
// that name in the tree.
func newSpec(args *module.Args, filename string) (*disk.Spec, error) {
	source := args.Inputs["tree"].Path
	if source == "" {
		return nil, errors.New(`the assembler lacks the input "tree"`)
	}
	output, err := securejoin.SecureJoin(args.Tree, filename)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", filename, err)
	}
	if output == filepath.Clean(args.Tree) {
		return nil, fmt.Errorf("filename %q names no file", filename)
	}
	recorded, err := record.Open(args.Inputs["tree"].Record)
	if err != nil {
		return nil, err
	}
	return &disk.Spec{Tree: source, Record: recorded, Output: output, Epoch: args.Meta.SourceEpoch, Writer: args.DiskWriter, Log: os.Stdout}, nil
}

// layout is the partitions' or, without any, one bootable root filesystem, by
// default in an MBR, which is how this assembler began.
func (o *qemuOptions) layout() disk.Layout {
	l := disk.Layout{TableType: disk.TableType(o.PTType), UUID: o.PTUUID, Size: o.Size}
	if o.PTType == "" || o.PTType == "dos" {
		l.TableType = disk.MBR
	}
	if o.Partitions == nil {
		root := &disk.Filesystem{Type: o.RootFSType, UUID: o.RootFSUUID, Mountpoint: "/"}
		if root.Type == "" {
			root.Type = "ext4"
		}
		l.Partitions = []disk.Partition{{Type: "83", Bootable: true, Filesystem: root}}
		return l
	}
	for _, p := range o.Partitions {
		l.Partitions = append(l.Partitions, asSfdisk(p, l.TableType))
	}
	return l
}

// asSfdisk is what sfdisk, which osbuild writes tables with, makes of a partition:
// all are Linux's unless they say more, only an MBR has active ones, and only a GPT
// has names.
func asSfdisk(p disk.Partition, table disk.TableType) disk.Partition {
	if p.Type == "" {
		p.Type = "linux"
	}
	if table == disk.GPT {
		p.Bootable = false
	} else {
		p.Name, p.UUID = "", ""
	}
	if p.Filesystem == nil {
		return p
	}
	fs := *p.Filesystem
	p.Filesystem = &fs
	fs.Mountpoint = filepath.Clean("/" + fs.Mountpoint)
	if id := strings.ReplaceAll(fs.UUID, "-", ""); fs.Type == "vfat" && len(id) == 8 {
		fs.UUID = id[:4] + "-" + id[4:]
	}
	return p
}

// format has the defaults of osbuild's qemu-img and no option of other formats.
func (o *qemuOptions) format() disk.Format {
	f := disk.Format{Name: o.Format}
	switch o.Format {
	case "qcow2":
		f.Compat, f.Compression = o.Qcow2Compat, qcow2.Zlib
	case "vmdk":
		f.Subformat = o.VMDKSubformat
		if f.Subformat == "" {
			f.Subformat = "monolithicSparse"
		}
	}
	return f
}

// grub returns the boot loader: an MBR has GRUB unless another one is named.
func (o *qemuOptions) grub(tree string, table disk.TableType) (*disk.Bootloader, error) {
	kind, platform := "", ""
	if o.Bootloader != nil {
		kind, platform = o.Bootloader.Type, o.Bootloader.Platform
	}
	switch {
	case kind == "zipl":
		return nil, refuseZipl()
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

// refuseZipl says what is in the way: zipl writes down on which blocks of a mounted
// filesystem the kernel lies.
func refuseZipl() error {
	if _, err := module.LookTool("zipl"); err != nil {
		return fmt.Errorf("org.osbuild.qemu: bootloader zipl is for s390x and runs there only: %w", err)
	}
	return errors.New("org.osbuild.qemu: bootloader zipl needs a mounted disk: run osbuild's own assembler as root (--libdir), or use the stage org.osbuild.zipl.inst with devices and mounts")
}

func exists(tree, path string) bool {
	_, err := os.Lstat(filepath.Join(tree, path))
	return err == nil
}
