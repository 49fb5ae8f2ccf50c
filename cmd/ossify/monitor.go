package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/ossify/ossify/monitor"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// monitorOptions are osbuild's: a display by name, and where it is written.
type monitorOptions struct {
	name string
	fd   int
}

func (o *monitorOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.name, "monitor", "", "NullMonitor, LogMonitor or JSONSeqMonitor, instead of progress on standard error")
	f.IntVar(&o.fd, "monitor-fd", 1, "file descriptor that the monitor writes to, LogMonitor if none is named")
}

// monitorEnv carries the number of the descriptor into the namespace.
const monitorEnv = "_OSSIFY_MONITOR_FD"

// keptFD is above what entering a namespace uses.
const keptFD = 100

// check refuses a monitor that is not there, and keeps its descriptor from being
// reused on the way into the namespace.
func (o *monitorOptions) check() error {
	switch o.name {
	case "", "NullMonitor", "LogMonitor", "JSONSeqMonitor":
	default:
		return usageError{fmt.Errorf("unknown monitor %q: want NullMonitor, LogMonitor or JSONSeqMonitor", o.name)}
	}
	if o.fd <= 2 && o.fd >= 0 || os.Getenv(monitorEnv) != "" {
		return nil
	}
	kept, err := unix.FcntlInt(uintptr(o.fd), unix.F_DUPFD, keptFD)
	if err != nil {
		return usageError{fmt.Errorf("--monitor-fd %d is not open: %w", o.fd, err)}
	}
	return os.Setenv(monitorEnv, strconv.Itoa(kept))
}

// open makes the monitor of a build of the manifest. Without a name, and unless
// silent, it shows progress on standard error, or plain lines on a descriptor
// that was named.
func (o *monitorOptions) open(manifest string, silent bool) monitor.Monitor {
	fd := o.fd
	if kept, err := strconv.Atoi(os.Getenv(monitorEnv)); err == nil {
		fd = kept
		unix.CloseOnExec(fd)
		os.Unsetenv(monitorEnv)
	}
	name := o.name
	if name == "" && fd != 1 && !silent {
		name = "LogMonitor"
	}
	switch name {
	case "LogMonitor":
		return monitor.NewLog(os.NewFile(uintptr(fd), "monitor"))
	case "JSONSeqMonitor":
		return monitor.NewJSONSeq(os.NewFile(uintptr(fd), "monitor"), manifest)
	case "":
		return newMonitor(silent)
	}
	return monitor.Null{}
}

// newMonitor shows progress on standard error, live if that is a terminal.
func newMonitor(quiet bool) monitor.Monitor {
	switch {
	case quiet:
		return monitor.Null{}
	case term.IsTerminal(int(os.Stderr.Fd())):
		return monitor.NewTerminal(os.Stderr)
	}
	return monitor.NewLog(os.Stderr)
}
