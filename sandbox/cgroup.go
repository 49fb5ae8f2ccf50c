package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
	manager "github.com/opencontainers/cgroups/systemd"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"
)

// Where the user has a systemd session, that gives the engine a part of the tree of control groups
// (https://systemd.io/CGROUP_DELEGATION), and the kernel enforces limits of memory and processes:
//
//	user@1000.service/app.slice/ossify-PID.scope   memory and pids enabled for what is below
//	  | engine                                     this process and what it starts itself
//	  | ID of a container                          memory.max, pids.max
//
// It all goes with the engine's last process: systemd removes scopes without processes.

// cgroupRoot is where version 2 is mounted.
const cgroupRoot = "/sys/fs/cgroup"

// delegationTimeout is how long systemd may take.
const delegationTimeout = 2 * time.Second

// delegate returns the directory that groups of containers can be made in.
func delegate() (dir string, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return "", errors.New("the machine has no control groups of version 2")
	}
	uid := unshare.GetRootlessUID()
	if uid <= 0 {
		return "", errors.New("root has no session of its own")
	}
	address, err := manager.DetectUserDbusSessionBusAddress()
	if err != nil {
		return "", fmt.Errorf("there is no systemd session: %w", err)
	}
	scope := fmt.Sprintf("ossify-%d.scope", os.Getpid())
	if err := startScope(address, uid, scope); err != nil {
		return "", fmt.Errorf("ask systemd for control groups: %w", err)
	}
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	if dir = filepath.Join(cgroupRoot, own[""]); filepath.Base(dir) != scope {
		return "", fmt.Errorf("systemd has made %s, but this process is in %s", scope, own[""])
	}
	// Only groups without processes can have limits below.
	engine := filepath.Join(dir, "engine")
	if err := os.Mkdir(engine, 0o755); err != nil {
		return "", err
	}
	if err := put(engine, "cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
		return "", err
	}
	return dir, put(dir, "cgroup.subtree_control", "+memory +pids")
}

// TryGroups says why containers of this process would have no control groups.
func TryGroups() error {
	_, err := delegate()
	return err
}

// startScope has the user's systemd make a scope with this process in it.
func startScope(address string, uid int, scope string) error {
	ctx, cancel := context.WithTimeout(context.Background(), delegationTimeout)
	defer cancel()
	conn, err := systemd.NewConnection(func() (*dbus.Conn, error) {
		conn, err := dbus.Dial(address, dbus.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		// The bus knows this process by the id that it has outside of the user namespace.
		err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(uid))})
		if err == nil {
			err = conn.Hello()
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, scope, "fail", []systemd.Property{
		systemd.PropDescription("ossify"),
		systemd.PropPids(uint32(os.Getpid())),
		{Name: "Delegate", Value: dbus.MakeVariant(true)},
		{Name: "CollectMode", Value: dbus.MakeVariant("inactive-or-failed")},
	}, done)
	if err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("the scope is %s", result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// group is the control group of a container.
type group struct {
	dir    string
	limits Limits
}

// newGroup makes the group of the container whose first process is pid, and waits. The caller
// removes it.
func newGroup(parent, id string, limits Limits, pid int) (*group, error) {
	g := &group{dir: filepath.Join(parent, id), limits: limits}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if limits.Memory > 0 {
		err = errors.Join(put(g.dir, "memory.max", strconv.FormatInt(limits.Memory, 10)), put(g.dir, "memory.oom.group", "1"))
		if swapErr := put(g.dir, "memory.swap.max", "0"); !errors.Is(swapErr, fs.ErrNotExist) { // a kernel without swap
			err = errors.Join(err, swapErr)
		}
	}
	if limits.Processes > 0 {
		err = errors.Join(err, put(g.dir, "pids.max", strconv.Itoa(limits.Processes)))
	}
	if err == nil {
		err = put(g.dir, "cgroup.procs", strconv.Itoa(pid))
	}
	if err != nil {
		g.remove()
		return nil, err
	}
	return g, nil
}

// over returns an error if the kernel has refused the container something.
func (g *group) over() error {
	if event(g.dir, "memory.events", "oom_kill") > 0 {
		return g.limits.overMemory()
	}
	if event(g.dir, "pids.events", "max") > 0 {
		return g.limits.overProcesses()
	}
	return nil
}

// remove removes the group when its last processes have gone; if they do not, it goes with the scope.
func (g *group) remove() {
	for range 100 {
		if unix.Rmdir(g.dir) != unix.EBUSY {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// put writes a value to a file of a group.
func put(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
}

// event is how often something has happened in a group, 0 if that is not known.
func event(dir, file, name string) int64 {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}
