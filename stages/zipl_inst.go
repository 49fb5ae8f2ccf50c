package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/bls"
	"github.com/ossify/ossify/module"
)

type ziplInstOptions struct {
	Kernel string `json:"kernel"`
	// Location is where the partition with /boot begins.
	Location         json.Number `json:"location"`
	KernelOptsAppend []string    `json:"kernel_opts_append"`
	Blocksize        json.Number `json:"blocksize"`
}

// ziplInst lets the build root's zipl write its boot map to the mounted /boot
// and its loader to the device "disk".
func ziplInst(ctx context.Context, args *module.Args, options ziplInstOptions) error {
	disk, err := devicePath(args, "disk")
	if err != nil {
		return err
	}
	root := args.Paths.Mounts
	entry, err := findKernel(root, options.Kernel)
	if err != nil {
		return err
	}
	var paths [3]string
	for i, path := range []string{"/boot", entry.Linux, entry.Initrd} {
		if paths[i], err = (location{root: root, path: filepath.Clean("/" + path)}).target(); err != nil {
			return err
		}
	}
	parameters := entry.Options
	if len(options.KernelOptsAppend) > 0 {
		parameters += " " + strings.Join(options.KernelOptsAppend, " ")
	}
	blocksize := "512"
	if options.Blocksize != "" {
		blocksize = pythonNumber(options.Blocksize)
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.zipl.inst", "zipl", "--verbose",
		"--target", paths[0], "--image", paths[1], "--ramdisk", paths[2], "--parameters", parameters,
		"--targetbase", disk, "--targettype", "SCSI",
		"--targetblocksize", blocksize, "--targetoffset", pythonNumber(options.Location))
	if err != nil {
		return err
	}
	return run(cmd)
}

// findKernel returns the boot loader entry of that kernel, rescue ones aside.
func findKernel(root, kernel string) (bls.Entry, error) {
	files, err := bootEntries(location{root: root, path: "/boot"})
	if err != nil {
		return bls.Entry{}, err
	}
	var versions []string
	for _, file := range files {
		if strings.HasSuffix(file.name(), "rescue") {
			continue
		}
		text, err := file.read()
		if err != nil {
			return bls.Entry{}, err
		}
		entry := bls.Parse(text)
		if entry.Version == "" || entry.Version != kernel {
			versions = append(versions, entry.Version)
			continue
		}
		if entry.Linux == "" || entry.Initrd == "" {
			return bls.Entry{}, fmt.Errorf("boot loader entry %s of kernel %s lacks linux or initrd", file.path, kernel)
		}
		return entry, nil
	}
	return bls.Entry{}, fmt.Errorf("no boot loader entry of the mounts is of kernel %s: there are %q in /boot/loader/entries", kernel, versions)
}
