package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound what each container may use; 0 is no limit.
//
// Where systemd gives the engine control groups, the kernel enforces those of memory and processes.
// Elsewhere the engine looks at what a container uses, ten times a second, and ends it; what can happen in
// between is bounded by the kernel as well: the number of processes, and that it ends a container's
// processes first when there is no memory left. Disk and output are always the engine's.
type Limits struct {
	// Memory is in bytes, of all processes together, with what files in /run, /tmp and /dev/shm take.
	Memory int64
	// Processes, each thread counts.
	Processes int
	// Disk is in bytes that the stage adds to its tree and to /var/tmp; a file counts 4 KiB at least.
	Disk int64
	// Output is what it prints, in bytes.
	Output int64
}

func (l Limits) overProcesses() error {
	return fmt.Errorf("it has more than %d processes and threads (--stage-pids)", l.Processes)
}

func (l Limits) overMemory() error {
	return fmt.Errorf("it uses more than %s of memory (--stage-memory)", size(l.Memory))
}

// lookEvery is how long a container can be above a limit, unless the machine is slow.
const lookEvery = 100 * time.Millisecond

// spare is how many tasks the engine and the containers beside this one may have.
const spare = 512

// kernelProcesses is the number of tasks for the kernel to enforce, 0 for none: it counts what the
// engine's user namespace has, too (setrlimit(2), RLIMIT_NPROC; since Linux 5.14).
func (l Limits) kernelProcesses() uint64 {
	var now unix.Rlimit
	if l.Processes <= 0 || unix.Getrlimit(unix.RLIMIT_NPROC, &now) != nil {
		return 0
	}
	return min(uint64(l.Processes)+spare, now.Cur)
}

// gauge measures what a container uses.
type gauge struct {
	limits Limits
	// group is nil if the container has none.
	group *group
	// proc is /proc of the container, which it can cover but not take away.
	proc *os.File
	// files are directories on filesystems in memory, used is what was in them at first, in bytes.
	files []*os.File
	used  int64
	// disk are those that it writes to, free is what their filesystem had at first.
	disk []string
	free unix.Statfs_t
}

// newGauge prepares for a container whose first process waits to be let go. shared is where the
// engine keeps what containers write outside their trees. The caller closes it.
func newGauge(limits Limits, pid int, shared string, disk []string) (*gauge, error) {
	g := &gauge{limits: limits}
	root := fmt.Sprintf("/proc/%d/root", pid)
	var err error
	if g.proc, err = os.Open(root + "/proc"); err != nil {
		return nil, fmt.Errorf("watch what a container uses: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(g.proc.Fd()), &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
		g.close()
		return nil, fmt.Errorf("watch what a container uses: its /proc is not there (%v)", err)
	}
	for _, dir := range []string{root + "/run", root + "/tmp", root + "/dev/shm", shared} {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil { // a whole system as build root has no /tmp of its own
			g.files = append(g.files, os.NewFile(uintptr(fd), dir))
		}
	}
	g.used = g.inFiles()
	for _, dir := range disk {
		if dir != "" {
			g.disk = append(g.disk, dir)
		}
	}
	if limits.Disk > 0 && len(g.disk) > 0 {
		if err := unix.Statfs(g.disk[0], &g.free); err != nil {
			g.close()
			return nil, fmt.Errorf("watch what a stage writes to %s: %w", g.disk[0], err)
		}
	}
	return g, nil
}

// close returns what the kernel has ended the container for.
func (g *gauge) close() (err error) {
	g.proc.Close()
	for _, f := range g.files {
		f.Close()
	}
	if g.group != nil {
		if event(g.group.dir, "memory.events", "oom_kill") > 0 {
			err = g.limits.overMemory()
		}
		g.group.remove()
	}
	return err
}

// watch returns when the context is done, nil, or when the container is above a limit.
func (g *gauge) watch(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := g.look(); err != nil {
				return err
			}
		}
	}
}

// look returns an error if the container is above a limit.
func (g *gauge) look() error {
	if g.group != nil {
		if err := g.group.over(); err != nil {
			return err
		}
	} else if err := g.lookAtProcesses(); err != nil {
		return err
	}
	if l := g.limits.Disk; l > 0 && len(g.disk) > 0 && g.mayHaveWritten() > l {
		if written(g.disk) > l {
			return fmt.Errorf("it has written more than %s (--stage-disk)", size(l))
		}
	}
	return nil
}

// lookAtProcesses does without a control group.
func (g *gauge) lookAtProcesses() error {
	tasks, memory, err := g.processes(rssOf)
	if err != nil {
		return nil // it has just ended
	}
	if l := g.limits.Processes; l > 0 && tasks > l {
		return g.limits.overProcesses()
	}
	if l := g.limits.Memory; l > 0 {
		// Pages that processes share are counted once for each of them here, and right there, which takes longer.
		if memory > l {
			if _, memory, err = g.processes(pssOf); err != nil {
				return nil
			}
		}
		if memory += g.inFiles() - g.used; memory > l {
			return g.limits.overMemory()
		}
		// What it has mounted itself is not seen.
		if available, total := machineMemory(); available < total/50 {
			return fmt.Errorf("the machine has only %s of memory left", size(available))
		}
	}
	return nil
}

// size is a number of bytes in words.
func size(n int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= unit.size {
			return strings.TrimSuffix(strconv.FormatFloat(float64(n)/float64(unit.size), 'f', 1, 64), ".0") + " " + unit.name
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// processes are the container's tasks and the memory of its processes.
func (g *gauge) processes(memoryOf func(dir int, pid string) int64) (tasks int, memory int64, err error) {
	if _, err := g.proc.Seek(0, 0); err != nil {
		return 0, 0, err
	}
	for {
		names, err := g.proc.Readdirnames(1000)
		for _, name := range names {
			if name[0] < '0' || name[0] > '9' {
				continue
			}
			tasks += tasksOf(int(g.proc.Fd()), name)
			memory += memoryOf(int(g.proc.Fd()), name)
		}
		switch {
		case len(names) == 0 && err != nil:
			return tasks, memory, nil
		case g.limits.Processes > 0 && tasks > g.limits.Processes:
			return tasks, memory, nil // that is enough
		}
	}
}

// tasksOf counts the threads of a process.
func tasksOf(dir int, pid string) int {
	var st unix.Stat_t
	if unix.Fstatat(dir, pid+"/task", &st, 0) != nil {
		return 0 // it is gone
	}
	return max(1, int(st.Nlink)-2)
}

// readAt reads a small file below a directory.
func readAt(dir int, path string) string {
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, _ := unix.Read(fd, buf)
	return string(buf[:max(n, 0)])
}

// rssOf is the memory of a process that is in no file, in bytes (proc_pid_statm(5)).
func rssOf(dir int, pid string) int64 {
	fields := strings.Fields(readAt(dir, pid+"/statm"))
	if len(fields) < 3 {
		return 0
	}
	resident, _ := strconv.ParseInt(fields[1], 10, 64)
	shared, _ := strconv.ParseInt(fields[2], 10, 64)
	return max(0, resident-shared) * int64(os.Getpagesize())
}

// pssOf is the same with what is shared with others divided among them (proc_pid_smaps(5)).
func pssOf(dir int, pid string) int64 {
	scan := bufio.NewScanner(strings.NewReader(readAt(dir, pid+"/smaps_rollup")))
	for scan.Scan() {
		if value, ok := strings.CutPrefix(scan.Text(), "Pss_Anon:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// inFiles is what files in memory take, in bytes.
func (g *gauge) inFiles() (n int64) {
	for _, f := range g.files {
		var st unix.Statfs_t
		if unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == unix.TMPFS_MAGIC {
			n += int64(st.Blocks-st.Bfree) * st.Bsize
		}
	}
	return n
}

// machineMemory is what programs can still have, and all there is, in bytes (proc_meminfo(5)).
func machineMemory() (available, total int64) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return math.MaxInt64, 0
	}
	for line := range strings.Lines(string(text)) {
		var n int64
		if _, err := fmt.Sscanf(line, "MemTotal: %d kB", &n); err == nil {
			total = n << 10
		}
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &n); err == nil {
			available = n << 10
			break // it comes last
		}
	}
	return available, total
}

// smallest is what a file counts, in bytes.
const smallest = 4096

// mayHaveWritten is what the filesystem has lost since the beginning, to whomever.
func (g *gauge) mayHaveWritten() int64 {
	var st unix.Statfs_t
	if unix.Statfs(g.disk[0], &st) != nil {
		return 0
	}
	if st.Files == 0 { // it does not count its files, as btrfs
		return math.MaxInt64
	}
	blocks := (int64(g.free.Bfree) - int64(st.Bfree)) * st.Bsize
	files := (int64(g.free.Ffree) - int64(st.Ffree)) * smallest
	return max(blocks, files)
}

// written is what there is below the directories, in bytes.
func written(dirs []string) (n int64) {
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil // it goes while we look
			}
			if info, err := entry.Info(); err == nil {
				if st, ok := info.Sys().(*syscall.Stat_t); ok {
					n += max(st.Blocks*512, smallest)
				}
			}
			return nil
		})
	}
	return n
}

// oomScore is that of a container, which the kernel ends before the engine when there is no memory
// left (proc_pid_oom_score_adj(5)). It cannot be lowered.
func oomScore() int {
	text, _ := os.ReadFile("/proc/self/oom_score_adj")
	now, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return min(1000, max(now, 0)+500)
}
