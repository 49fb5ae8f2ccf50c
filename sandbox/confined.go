package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/capability"
	"github.com/ossify/ossify/seccomp"
	"golang.org/x/sys/unix"
)

// confinedName is what this program is called while it becomes a confined service. Its
// argument is a confined; on statusFD it says why it cannot become one.
const confinedName = "ossify-confined"

// Descriptors of a confined service.
const (
	serviceFD = 3
	statusFD  = 4 // gone when the service runs
)

// IsConfined says whether this process is to become a confined service; package native
// then calls Confine before anything else.
func IsConfined() bool { return len(os.Args) == 2 && os.Args[0] == confinedName }

// Confine makes this process the service; it does not return.
func Confine() {
	c, err := becomeService()
	text := fmt.Sprint(err)
	if err == nil {
		err, text = syscall.Exec(c.Args[0], c.Args, os.Environ()), execFailed
	}
	var errno syscall.Errno
	errors.As(err, &errno)
	fmt.Fprintf(os.NewFile(statusFD, "status"), "%d %s", errno, text)
	os.Exit(1)
}

// execFailed is said of a program that cannot be started.
const execFailed = "exec"

// becomeService is all but the start of the service's program.
func becomeService() (*confined, error) {
	// Mounts, capabilities and the like are a thread's.
	runtime.LockOSThread()
	var c confined
	if err := json.Unmarshal([]byte(os.Args[1]), &c); err != nil {
		return nil, err
	}
	unix.CloseOnExec(statusFD)
	if err := enterTree(c.Root); err != nil {
		return nil, err
	}
	if err := os.Chdir(c.Dir); err != nil {
		return nil, err
	}
	// Keys of the user's session, Kerberos tickets among them, stay behind.
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && !errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("leave the session's keyring: %w", err)
	}
	if err := unix.CloseRange(statusFD+1, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("close descriptors: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := scope(); err != nil {
		return nil, err
	}
	if err := keepCapabilities(c.Capabilities); err != nil {
		return nil, err
	}
	// It goes with the engine, and all of its pid namespace with it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return nil, fmt.Errorf("set death signal: %w", err)
	}
	return &c, seccomp.Refuse()
}

// enterTree makes root, which the engine has laid out, the root directory of this mount
// namespace, in which there is nothing else then.
func enterTree(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// What the engine has mounted is locked, and cannot be a new root.
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount the service's root: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", flags, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// Now the old root lies on the new one.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the engine's files: %w", err)
	}
	// Now that is a mount to which nobody is about to write, or this would fail.
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attr); err != nil {
		return fmt.Errorf("make the root directory read-only: %w", err)
	}
	return unix.Chdir("/")
}

// keepCapabilities gives up all other capabilities, also for programs that are started.
func keepCapabilities(names []string) error {
	var keep [2]uint32
	for _, known := range capability.ListKnown() {
		if slices.Contains(names, "CAP_"+strings.ToUpper(known.String())) {
			keep[known/32] |= 1 << (known % 32)
		}
	}
	for n := uintptr(0); n < 64; n++ {
		if keep[n/32]&(1<<(n%32)) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0); errors.Is(err, unix.EINVAL) {
			break // the kernel has no more
		} else if err != nil {
			return fmt.Errorf("drop capability %d: %w", n, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: keep[0], Permitted: keep[0]}, {Effective: keep[1], Permitted: keep[1]}}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
