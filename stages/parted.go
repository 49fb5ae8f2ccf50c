package stages

import (
	"context"
	"fmt"
	"strconv"

	"github.com/ossify/ossify/module"
)

type partedOptions struct {
	Label      string            `json:"label"`
	Partitions []partedPartition `json:"partitions"`
}

type partedPartition struct {
	Start    *int64  `json:"start"`
	Size     *int64  `json:"size"`
	Type     string  `json:"type"`
	Name     *string `json:"name"`
	Bootable bool    `json:"bootable"`
}

// parted writes a partition table to the device; a type is a flag of parted's.
func parted(ctx context.Context, args *module.Args, options partedOptions) error {
	device, err := devicePath(args, "device")
	if err != nil {
		return err
	}
	commands := []string{"unit", "s", "mklabel", options.Label}
	for i, p := range options.Partitions {
		if p.Start == nil || p.Size == nil {
			return fmt.Errorf("partition %d lacks start or size: parted needs both, in sectors", i+1)
		}
		number := strconv.Itoa(i + 1)
		commands = append(commands, "mkpart", p.quotedName(),
			strconv.FormatInt(*p.Start, 10), strconv.FormatInt(*p.Start+*p.Size-1, 10))
		if p.Bootable {
			commands = append(commands, "set", number, "boot", "on")
		}
		if p.Type != "" {
			commands = append(commands, "set", number, p.Type, "on")
		}
	}
	for _, commands := range [][]string{commands, {"print"}} {
		argv := append([]string{"-a", "none", "-s", device, "--"}, commands...)
		cmd, err := deviceCommand(ctx, args, "org.osbuild.parted", "parted", argv...)
		if err != nil {
			return err
		}
		if err := run(cmd); err != nil {
			return err
		}
	}
	return nil
}

// quotedName is the name as parted takes it. A partition without one is called
// None, as osbuild has it.
func (p *partedPartition) quotedName() string {
	if p.Name == nil {
		return `"None"`
	}
	return `"` + *p.Name + `"`
}
