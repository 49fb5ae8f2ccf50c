package stages

import (
	"context"
	"fmt"
	"strconv"

	"github.com/ossify/ossify/module"
)

type mkfsFATOptions struct {
	VolID    string `json:"volid"`
	Label    string `json:"label"`
	FATSize  int    `json:"fat-size"`
	Geometry *struct {
		Heads           int64 `json:"heads"`
		SectorsPerTrack int64 `json:"sectors-per-track"`
	} `json:"geometry"`
}

// mkfsFAT makes a FAT filesystem on the device. -I takes a device for a filesystem
// even if the kernel knows partitions of it.
func mkfsFAT(ctx context.Context, args *module.Args, options mkfsFATOptions) error {
	argv := []string{"-I", "-i", options.VolID}
	if options.Label != "" {
		argv = append(argv, "-n", options.Label)
	}
	if options.FATSize != 0 {
		argv = append(argv, "-F", strconv.Itoa(options.FATSize))
	}
	if g := options.Geometry; g != nil {
		argv = append(argv, "-g", fmt.Sprintf("%d/%d", g.Heads, g.SectorsPerTrack))
	}
	return formatDevice(ctx, args, "org.osbuild.mkfs.fat", "mkfs.fat", argv...)
}
