package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runc/libcontainer/exeseal"
	"go.podman.io/storage/pkg/idmap"
	"go.podman.io/storage/pkg/idtools"
	"golang.org/x/sys/unix"
)

// Real root takes the way of everybody else, or its stages would hold kernel
// user 0, who may write to /proc/sys from any namespace:
//
//	ossify (uid 0)
//	  | again, in a mount namespace of its own (stepMounts)
//	  |   | the engine, if stages need loop devices or kernel mounts; else
//	  |   | pivot into a view of the whole host in which every mount that
//	  |   | can be is id-mapped: 0 on disk is rootBase to the kernel
//	  |   | again, in a user namespace where rootBase is 0 (stepDone)
//	  |   |   | the engine
//
// So files of the host and of the store belong to root on disk and to root in
// the engine, while no process of the engine has a user id of the host.

// rootBase is the first kernel id of real root's builds. systemd's allocation
// of ids ends just below it (https://systemd.io/UIDS-GIDS).
const rootBase = 1879048192

// rootIDs is the number of ids in a build of real root.
const rootIDs = 65536

// stepEnv says how far real root's process is on its way.
const stepEnv = "_OSSIFY_STEP"

const (
	stepMounts = "mounts"
	stepDone   = "done"
)

// enterAsRoot takes the next step of real root's way; it returns in the last. The
// way ends before the user namespace for builds that need devices.
func enterAsRoot(devices bool) error {
	switch os.Getenv(stepEnv) {
	case "":
		return rerun(stepMounts, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS})
	case stepMounts:
		if err := privateMounts(); err != nil {
			return err
		}
		if devices {
			if !exeseal.IsSelfExeCloned() {
				fmt.Fprintln(os.Stderr, "ossify: note: the manifest may need loop devices and kernel mounts, so stages run with root's own user ids")
			}
			return stayAsRoot()
		}
		mapped, err := mapHost()
		if err != nil {
			return fmt.Errorf("map root's ids: %w", err)
		}
		if !mapped {
			// Such as overlay, the root of many a CI container, and NFS.
			fmt.Fprintln(os.Stderr, "ossify: note: the filesystem of / cannot be id-mapped, so stages run with root's own user ids; an ordinary user's builds are confined better")
			return stayAsRoot()
		}
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: rootBase, Size: rootIDs}}
		return rerun(stepDone, &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
			Credential: &syscall.Credential{Uid: 0, Gid: 0},
		})
	}
	if err := sealProgram(); err != nil {
		return err
	}
	os.Unsetenv(stepEnv)
	return privateMounts()
}

// stayAsRoot ends the way in the machine's user namespace. Containers shall have
// no control groups of their own there either: those of a killed engine would
// stay.
func stayAsRoot() error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	err := unix.MountSetattr(unix.AT_FDCWD, "/sys/fs/cgroup", unix.AT_RECURSIVE, &attr)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("protect /sys/fs/cgroup: %w", err)
	}
	return sealProgram()
}

// isRootsNamespace says whether this process is in a namespace that enterAsRoot
// has made, as below "ossify unshare".
func isRootsNamespace() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && slices.Equal(strings.Fields(string(data)), []string{"0", strconv.Itoa(rootBase), strconv.Itoa(rootIDs)})
}

// IsInitialNamespace says whether this process is in the machine's own user
// namespace.
func IsInitialNamespace() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && slices.Equal(strings.Fields(string(data)), []string{"0", "0", "4294967295"})
}

// rerun runs the program again with attr and exits with its status.
func rerun(step string, attr *syscall.SysProcAttr) error {
	attr.Pdeathsig = syscall.SIGKILL
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stepEnv+"="+step)
	cmd.SysProcAttr = attr
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make a namespace: %w", err)
	}
	go func() {
		for sig := range signals {
			_ = cmd.Process.Signal(sig)
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			os.Exit(128 + int(ws.Signal()))
		}
		os.Exit(exit.ExitCode())
	}
	return fmt.Errorf("run in a namespace: %w", err)
}

// mapHost makes an id-mapped view of every mount of the host the root of this
// mount namespace. It returns false, and changes nothing, if the filesystem of
// / cannot be id-mapped. Mounts of other filesystems that cannot be (proc,
// sysfs, devices) are taken as they are.
func mapHost() (bool, error) {
	ids := []idtools.IDMap{{ContainerID: 0, HostID: rootBase, Size: rootIDs}}
	pid, stop, err := idmap.CreateUsernsProcess(ids, ids)
	if err != nil {
		return false, err
	}
	defer stop()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return false, err
	}
	defer ns.Close()
	root, err := cloneMapped("/", ns)
	if err != nil {
		return false, nil //nolint:nilerr // said by the result
	}
	defer unix.Close(root)
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return false, err
	}
	// The new root has to be attached somewhere; /proc is sure to be there
	// and is hidden only until the pivot.
	const stage = "/proc"
	var clones []int
	var targets []string
	defer func() {
		for _, fd := range clones {
			unix.Close(fd)
		}
	}()
	for _, info := range infos {
		if info.Mountpoint == "/" || slices.Contains(targets, info.Mountpoint) {
			continue
		}
		fd, err := cloneMapped(info.Mountpoint, ns)
		if err != nil {
			fd, err = unix.OpenTree(unix.AT_FDCWD, info.Mountpoint, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		}
		if err != nil {
			continue // below a mount that hides it
		}
		clones, targets = append(clones, fd), append(targets, info.Mountpoint)
	}
	if err := moveMount(root, stage); err != nil {
		return false, err
	}
	for i, fd := range clones {
		// A mount point that another mount hides is not there any more.
		if err := moveMount(fd, filepath.Join(stage, targets[i])); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return false, err
		}
	}
	cwd, err := os.Getwd()
	if err != nil {
		cwd = "/"
	}
	if err := unix.Chdir(stage); err != nil {
		return false, err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return false, fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return false, err
	}
	if err := unix.Chdir(cwd); err != nil {
		return false, fmt.Errorf("return to %s: %w", cwd, err)
	}
	return true, nil
}

// cloneMapped returns a detached, id-mapped copy of the mount at path.
func cloneMapped(path string, ns *os.File) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func moveMount(fd int, target string) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach mount at %s: %w", target, err)
	}
	return nil
}
