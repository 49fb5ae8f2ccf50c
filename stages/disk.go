package stages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/disk"
	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/qcow2"
	"github.com/ossify/ossify/record"
)

const defaultGrubConfig = "/boot/grub/grub.cfg"

type diskOptions struct {
	Filename    string           `json:"filename"`
	Format      string           `json:"format"`
	Compression string           `json:"compression"`
	Size        int64            `json:"size"`
	PTType      string           `json:"pttype"`
	PTUUID      string           `json:"ptuuid"`
	Partitions  []disk.Partition `json:"partitions"`
	Bootloader  *struct {
		Platforms []string `json:"platforms"`
		Config    string   `json:"config"`
	} `json:"bootloader"`
}

// writeDisk writes the input "tree" as a disk image into the tree.
func writeDisk(ctx context.Context, args *module.Args, options diskOptions) error {
	source := args.Inputs["tree"].Path
	if source == "" {
		return errors.New(`the stage lacks the input "tree"`)
	}
	compression, err := qcow2Compression(options.Compression)
	if err != nil {
		return err
	}
	recorded, err := record.Open(args.Inputs["tree"].Record)
	if err != nil {
		return err
	}
	spec := disk.Spec{
		Tree:   source,
		Record: recorded,
		Output: filepath.Join(args.Tree, options.Filename),
		Layout: disk.Layout{
			TableType:  disk.TableType(options.PTType),
			UUID:       options.PTUUID,
			Size:       options.Size,
			Partitions: options.Partitions,
		},
		Format: disk.Format{Name: options.Format, Compression: compression},
		Epoch:  args.Meta.SourceEpoch,
		Writer: args.DiskWriter,
		Log:    os.Stdout,
	}
	if options.PTType == "dos" {
		spec.Layout.TableType = disk.MBR
	}
	if b := options.Bootloader; b != nil {
		if b.Config == "" {
			b.Config = defaultGrubConfig
		}
		if err := needFile(source, b.Config); err != nil {
			return err
		}
		spec.Bootloader = &disk.Bootloader{Platforms: b.Platforms, Config: b.Config}
	}
	return disk.Write(ctx, spec)
}

func qcow2Compression(name string) (qcow2.Compression, error) {
	switch name {
	case "", "none":
		return qcow2.None, nil
	case "zlib":
		return qcow2.Zlib, nil
	case "zstd":
		return qcow2.Zstd, nil
	}
	return 0, fmt.Errorf("unknown compression %q: want none, zlib or zstd", name)
}

// needFile refuses a tree that would boot into an empty GRUB.
func needFile(tree, config string) error {
	path, err := location{root: tree, path: filepath.Clean("/" + config)}.target()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the tree has no %s, which grub is to load: make it in an earlier stage (org.osbuild.grub2.legacy) or set bootloader.config", config)
	} else if err != nil {
		return err
	}
	return nil
}
