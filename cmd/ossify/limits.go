package main

import (
	"fmt"

	"github.com/ossify/ossify/sandbox"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// limitOptions bound what stages use.
type limitOptions struct {
	memory, disk sizeFlag
	pids         int
}

// What a stage may have if nothing is said; podman gives a container as many processes.
const (
	defaultPids = 2048
	maxPrinted  = 1 << 30 // bytes
)

func (o *limitOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&o.memory, "stage-memory", "memory that a stage may use, as 2GiB, or unlimited (default: nine tenths of the machine's)")
	f.IntVar(&o.pids, "stage-pids", defaultPids, "processes and threads that a stage may have at a time, 0 for no limit")
	f.Var(&o.disk, "stage-disk", "what a stage may write, as 10GB; a file counts 4 KiB at least (default: unlimited)")
}

func (o *limitOptions) check() error {
	if o.pids < 0 {
		return usageError{fmt.Errorf("--stage-pids %d: want a number of processes, or 0 for no limit", o.pids)}
	}
	return nil
}

func (o *limitOptions) limits() sandbox.Limits {
	l := sandbox.Limits{Memory: o.memory.bytes, Processes: o.pids, Disk: o.disk.bytes, Output: maxPrinted}
	var info unix.Sysinfo_t
	if o.memory.text == "" && unix.Sysinfo(&info) == nil {
		l.Memory = int64(info.Totalram*uint64(info.Unit)) / 10 * 9
	}
	return l
}
