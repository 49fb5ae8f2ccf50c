package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// greed are the stages org.hostile.KIND that take what they can get, and do not give up.
var greed = map[string]func(){
	"forks":   func() { forks(false) },
	"users":   func() { forks(true) }, // each as another user: the kernel counts by user, too
	"threads": threads,
	"memory":  memory,
	"shared":  shared,
	"shm":     func() { fill("/dev/shm") },
	"tmp":     func() { fill("/tmp") },
	"etc":     func() { fill("/etc") },
	"tree":    func() { fill("/run/osbuild/tree") },
	"vartmp":  func() { fill("/var/tmp") },
	"inodes":  inodes,
	"sleep":   func() { time.Sleep(time.Hour) },
}

// forks is a fork bomb.
func forks(users bool) {
	if len(os.Args) > 1 && os.Args[1] == "user" {
		var uid int
		fmt.Sscan(os.Args[2], &uid)
		must(0, syscall.Setuid(uid))
		users = false
	}
	for uid := 1; ; uid++ {
		cmd := exec.Command("/proc/self/exe")
		if cmd.Args[0] = os.Args[0]; users {
			cmd.Args = append(cmd.Args, "user", fmt.Sprint(uid%60000))
		}
		if cmd.Start() != nil {
			time.Sleep(time.Millisecond)
		}
	}
}

func threads() {
	for range 5000 {
		go func() {
			_, _, _ = unix.Syscall(unix.SYS_PAUSE, 0, 0, 0) // each in a thread of its own
		}()
	}
	time.Sleep(time.Hour)
}

func memory() {
	var all [][]byte
	for {
		block := make([]byte, 16<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		all = append(all, block)
		if len(all) > 256 { // 4 GiB are enough to show it
			time.Sleep(time.Hour)
		}
	}
}

// shared has many processes with the same memory, which is there once.
func shared() {
	fmt.Printf("%s", must(exec.Command("python3", "-c", `
import os, time
block = bytearray(os.urandom(1 << 20)) * 48
for i in range(8):
    if os.fork() == 0:
        break
time.sleep(1)
`).CombinedOutput()))
}

func fill(dir string) {
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	f := must(os.Create(filepath.Join(dir, "large")))
	for range 4096 {
		if _, err := f.Write(block); err != nil {
			fmt.Println(err)
			break
		}
	}
	time.Sleep(time.Hour)
}

// inodes makes a million files.
func inodes() {
	for i := range 1 << 20 {
		f, err := os.Create(fmt.Sprintf("/run/osbuild/tree/%d", i))
		if err != nil {
			fmt.Println(err)
			break
		}
		f.Close()
	}
	time.Sleep(time.Hour)
}

// TestLimits has stages that take all they can get (attempt 12): each ends at its limit, and the next
// build is not worse for it.
func TestLimits(t *testing.T) {
	h := newHostileLib(t)
	h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
	const pids, memory, disk = "--stage-pids=300", "--stage-memory=200MiB", "--stage-disk=64MiB"
	for _, c := range []struct {
		kind, limit, want string
	}{
		{"forks", pids, "it has more than 300 processes and threads (--stage-pids)"},
		{"users", pids, "it has more than 300 processes and threads (--stage-pids)"},
		{"threads", pids, "it has more than 300 processes and threads (--stage-pids)"},
		{"memory", memory, "it uses more than 200 MiB of memory (--stage-memory)"},
		{"shm", memory, "it uses more than 200 MiB of memory (--stage-memory)"},
		{"tmp", memory, "it uses more than 200 MiB of memory (--stage-memory)"},
		{"etc", memory, "it uses more than 200 MiB of memory (--stage-memory)"},
		{"shared", memory, ""},
		{"tree", disk, "it has written more than 64 MiB (--stage-disk)"},
		{"vartmp", disk, "it has written more than 64 MiB (--stage-disk)"},
		{"inodes", disk, "it has written more than 64 MiB (--stage-disk)"},
		{"sleep", "--stage-timeout=1", "it took longer than 1s (--stage-timeout)"},
	} {
		t.Run(c.kind+c.limit, func(t *testing.T) {
			h.t = t
			o := h.run(h.manifest("stage", c.kind), nil, c.limit)
			if c.want == "" {
				h.expect(o, 0)
				return
			}
			h.expect(o, 1, fmt.Sprintf(`pipeline "tree": stage 1 (org.hostile.%s): %s`, c.kind, c.want))
		})
	}
	h.t = t
	h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
	for _, c := range []struct{ flag, want string }{
		{"--stage-pids=-1", "--stage-pids -1: want a number of processes, or 0 for no limit"},
		{"--stage-memory=much", `"much" is no size`},
	} {
		h.expect(h.run(h.manifest("stage", "ok"), nil, c.flag), 2, c.want)
	}
}
