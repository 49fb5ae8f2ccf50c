package stages

import (
	"context"
	"fmt"
	"slices"

	"github.com/ossify/ossify/module"
)

type sgdiskOptions struct {
	UUID       string            `json:"uuid"`
	QuoteNames *bool             `json:"quote_partition_name"`
	Partitions []sgdiskPartition `json:"partitions"`
}

type sgdiskPartition struct {
	Number   int64  `json:"partnum"`
	Start    *int64 `json:"start"`
	Size     int64  `json:"size"`
	Type     string `json:"type"`
	Name     string `json:"name"`
	UUID     string `json:"uuid"`
	Attrs    []int  `json:"attrs"`
	Bootable bool   `json:"bootable"`
}

// sgdisk writes a GPT to the device.
func sgdisk(ctx context.Context, args *module.Args, options sgdiskOptions) error {
	device, err := devicePath(args, "device")
	if err != nil {
		return err
	}
	// -Z takes what was there away; old versions want -g to begin with a new table.
	argv := []string{"-Z", device, "-g"}
	if options.UUID != "" {
		argv = append(argv, "-U", options.UUID)
	}
	quote := options.QuoteNames == nil || *options.QuoteNames
	for i, p := range options.Partitions {
		if p.Start == nil {
			return fmt.Errorf("partition %d has no start: give its first sector, or 0 for the first free one", i+1)
		}
		argv = append(argv, p.arguments(i+1, quote)...)
	}
	cmd, err := deviceCommand(ctx, args, "org.osbuild.sgdisk", "sgdisk", argv...)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return err
	}
	show, err := deviceCommand(ctx, args, "org.osbuild.sgdisk", "sgdisk", "-p", device)
	if err != nil {
		return err
	}
	return run(show)
}

// arguments make a partition, by its place in the list if it has no number.
func (p *sgdiskPartition) arguments(number int, quote bool) []string {
	index := p.Number
	if index == 0 {
		index = int64(number)
	}
	size := "0"
	if p.Size != 0 {
		size = fmt.Sprintf("+%d", p.Size)
	}
	argv := []string{"-n", fmt.Sprintf("%d:%d:%s", index, *p.Start, size)}
	name := p.Name
	if name != "" && quote {
		name = `"` + name + `"`
	}
	for _, text := range [][2]string{{"-c", name}, {"-u", p.UUID}, {"-t", p.Type}} {
		if text[1] != "" {
			argv = append(argv, text[0], fmt.Sprintf("%d:%s", index, text[1]))
		}
	}
	bits := p.Attrs
	if p.Bootable {
		bits = append(bits, 2) // legacy BIOS bootable
	}
	slices.Sort(bits)
	for _, bit := range slices.Compact(bits) {
		argv = append(argv, "-A", fmt.Sprintf("%d:set:%d", index, bit))
	}
	return argv
}
