package stages

import (
	"context"

	"github.com/ossify/ossify/module"
)

type mkfsExt4Options struct {
	UUID             string `json:"uuid"`
	Label            string `json:"label"`
	LazyInit         *bool  `json:"lazy_init"`
	Verity           *bool  `json:"verity"`
	OrphanFile       *bool  `json:"orphan_file"`
	MetadataCsumSeed *bool  `json:"metadata_csum_seed"`
}

// mkfsExt4 makes an ext4 filesystem on the device. A feature that is not
// mentioned is as the build root's mke2fs.conf has it.
func mkfsExt4(ctx context.Context, args *module.Args, options mkfsExt4Options) error {
	argv := []string{"-U", options.UUID}
	if options.Label != "" {
		argv = append(argv, "-L", options.Label)
	}
	if lazy := options.LazyInit; lazy != nil {
		value := map[bool]string{false: "0", true: "1"}[*lazy]
		argv = append(argv, "-E", "lazy_itable_init="+value, "-E", "lazy_journal_init="+value)
	}
	for _, feature := range []struct {
		name string
		on   *bool
	}{
		{"verity", options.Verity},
		{"orphan_file", options.OrphanFile},
		{"metadata_csum_seed", options.MetadataCsumSeed},
	} {
		switch {
		case feature.on == nil:
		case *feature.on:
			argv = append(argv, "-O", feature.name)
		default:
			argv = append(argv, "-O", "^"+feature.name)
		}
	}
	return formatDevice(ctx, args, "org.osbuild.mkfs.ext4", "mkfs.ext4", argv...)
}
