package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"github.com/sirupsen/logrus"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"
)

// EnterNamespace makes this process root of a user and mount namespace of its
// own by running the program again in one; in the first process it does not
// return. An ordinary user gets the same id map that podman uses. The error says
// what to do about it.
func EnterNamespace() error { return enterNamespace(false) }

// EnterForDevices is EnterNamespace for a build that may need loop devices and
// kernel mounts. Only root of the machine's own user namespace can have those, so
// there it stays in that; others are not told anything before a stage is refused
// one.
func EnterForDevices() error { return enterNamespace(true) }

func enterNamespace(devices bool) error {
	if os.Getenv(programEnv) == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program's file: %w", err)
		}
		os.Setenv(programEnv, exe)
	}
	if Inside() {
		if err := checkMapped(); err != nil {
			return err
		}
		if err := sealProgram(); err != nil {
			return err
		}
		return privateMounts()
	}
	if AsRoot() {
		return enterAsRoot(devices)
	}
	if err := checkUserNamespaces(); err != nil {
		return err
	}
	logrus.SetFormatter(reexecLog{})
	unshare.MaybeReexecUsingUserNamespace(false)
	return privateMounts()
}

// Inside says whether this process is in a namespace of EnterNamespace's already, as below
// "ossify unshare".
func Inside() bool {
	return os.Geteuid() == 0 && (unshare.GetRootlessUID() > 0 || os.Getenv(stepEnv) == "" && isRootsNamespace())
}

// AsRoot says whether this process is real root's, who needs no subordinate ids, and is not Inside.
func AsRoot() bool {
	if os.Geteuid() != 0 || Inside() {
		return false
	}
	has, err := unshare.HasCapSysAdmin()
	return os.Getenv(stepEnv) != "" || err == nil && has
}

// checkMapped finds out whether this user namespace has the ids of a system image. If
// newuidmap or newgidmap fails, containers/storage goes on with one: files of all other users
// would silently be nobody's in what is built.
func checkMapped() error {
	for _, c := range []struct{ path, tool string }{{"/proc/self/uid_map", "newuidmap"}, {"/proc/self/gid_map", "newgidmap"}} {
		data, err := os.ReadFile(c.path)
		if err != nil {
			return fmt.Errorf("read the id map of this user namespace: %w", err)
		}
		var ids uint64
		for line := range strings.Lines(string(data)) {
			var inside, outside, n uint64
			if _, err := fmt.Sscan(line, &inside, &outside, &n); err != nil {
				return fmt.Errorf("read the id map of this user namespace: %s: %w", c.path, err)
			}
			ids += n
		}
		if ids < MinIDs {
			return fmt.Errorf("this user namespace has %d of the %d ids that a system image needs (%s): %s has failed, or the namespace is somebody else's", ids, MinIDs, c.path, c.tool)
		}
	}
	return nil
}

// reexecLog prints what containers/storage logs when the process in the namespace could not
// be started, or did not end by itself.
type reexecLog struct{}

// Format implements logrus.Formatter.
func (reexecLog) Format(entry *logrus.Entry) ([]byte, error) {
	text := entry.Message
	switch {
	case strings.HasPrefix(text, "("): // that it knows no better exit status
		return nil, nil
	case strings.HasPrefix(text, "Falling back"): // checkMapped does not let it
		return nil, nil
	case text == "signal: killed":
		text = "its process in the user namespace was killed, as the kernel does when there is no memory left"
	}
	return []byte("ossify: " + text + "\n"), nil
}

// processName is what ps(1) shows.
var processName = []byte("ossify\x00")

// programEnv carries the path of the program's file into the namespace.
const programEnv = "_OSSIFY_PROGRAM"

// Program returns the path of this program's file, also after EnterNamespace.
func Program() string {
	if path := os.Getenv(programEnv); path != "" {
		return path
	}
	return "/proc/self/exe"
}

// sealProgram runs the program again from a sealed copy in memory, which no
// container can write to. libcontainer would make one for every container. The
// mount namespace is a new one, also below "ossify unshare": what a killed
// engine has mounted goes with it.
func sealProgram() error {
	if exeseal.IsSelfExeCloned() {
		return nil
	}
	src, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	sealed, err := exeseal.CloneBinary(src, st.Size(), "ossify", os.TempDir())
	if err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	if !exeseal.IsCloned(sealed) {
		return sealed.Close() // no memfd here; libcontainer takes care
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", sealed.Fd()), os.Args, os.Environ())
	return fmt.Errorf("start the copy of this program: %w", err)
}

func privateMounts() error {
	// Started from a descriptor, the process would be called by its number.
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&processName[0])), 0, 0, 0)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	go dieWithParent(os.Getppid())
	return nil
}

// dieWithParent ends this process when the one that the user started is gone.
// The signal that was asked for at the start does not do it: entering a user
// namespace changes credentials, which clears it (PR_SET_PDEATHSIG(2const)).
func dieWithParent(parent int) {
	for os.Getppid() == parent {
		time.Sleep(100 * time.Millisecond)
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
}
