package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ossify/ossify/module"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"
)

// Lack is something that builds need and this machine does not have.
type Lack struct {
	// What it is, in words. Fix is the command that mends it.
	What, Fix string
	// Err is why, or nil.
	Err error
}

// Error says what is lacking and the command that mends it.
func (l *Lack) Error() string { return l.What + "; mend it with: " + l.Fix }

// Unwrap returns the reason.
func (l *Lack) Unwrap() error { return l.Err }

// MinIDs is how many subordinate ids a system image needs: distributions use
// ids up to 65534 (nobody).
const MinIDs = 65535

// IDTools write the id maps of an ordinary user's namespaces.
var IDTools = []string{"newuidmap", "newgidmap"}

// switches are settings that allow user namespaces unless they are off.
var switches = []struct{ path, off, fix string }{
	{"/proc/sys/user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=15000"},
	{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"},
}

// apparmorSwitch is Ubuntu's since 23.10: programs without a profile get no user namespaces.
const apparmorSwitch = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"

// checkUserNamespaces finds out why an ordinary user could not get a user
// namespace with subordinate ids, before anything is tried.
func checkUserNamespaces() error {
	if err := CheckSwitches(); err != nil {
		return err
	}
	for _, tool := range IDTools {
		if err := CheckIDTool(tool); err != nil {
			return err
		}
	}
	if _, err := CheckSubordinateIDs(); err != nil {
		return err
	}
	if setting(apparmorSwitch) != "1" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return TryUserNamespace(ctx)
}

// CheckSwitches returns a *Lack if user namespaces are switched off.
func CheckSwitches() error {
	for _, s := range switches {
		if setting(s.path) == s.off {
			return &Lack{What: fmt.Sprintf("user namespaces are switched off on this machine (%s is %s)", s.path, s.off), Fix: s.fix}
		}
	}
	return nil
}

// setting is the content of a file of /proc or /sys in one line, "" if it is not there.
func setting(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimRight(strings.TrimSpace(string(data)), "\x00")
}

// CheckIDTool returns a *Lack if newuidmap or newgidmap is not installed, or not found.
func CheckIDTool(tool string) error {
	if _, err := exec.LookPath(tool); err != nil {
		if _, err := exec.LookPath("/usr/bin/" + tool); err == nil {
			return &Lack{What: fmt.Sprintf("%s is in /usr/bin, but that is not in PATH (%s)", tool, os.Getenv("PATH")), Fix: "export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH", Err: err}
		}
		return &Lack{What: tool + " is not installed", Fix: module.InstallCommand(tool), Err: err}
	}
	return nil
}

// IDs are the subordinate ids of a user.
type IDs struct {
	// User is their name.
	User string
	// UIDs and GIDs are how many they have.
	UIDs, GIDs uint64
	// FirstUID and FirstGID are of their first ranges.
	FirstUID, FirstGID uint32
}

// CheckSubordinateIDs returns this user's subordinate ids, and a *Lack if they are too few.
func CheckSubordinateIDs() (ids IDs, err error) {
	me, err := user.Current()
	if err != nil {
		return ids, &Lack{
			What: fmt.Sprintf("user id %d has no name, it is not in /etc/passwd (%v)", os.Getuid(), err),
			Fix:  fmt.Sprintf("echo ossify:x:%d:%d::/:/bin/sh | sudo tee -a /etc/passwd", os.Getuid(), os.Getgid()), Err: err,
		}
	}
	ids.User = me.Username
	first := freeIDs()
	fix := fmt.Sprintf("sudo usermod --add-subuids %d-%d --add-subgids %[1]d-%[2]d %[3]s", first, first+MinIDs, me.Username)
	uids, gids, err := unshare.GetSubIDMappings(me.Username, me.Username)
	if err != nil {
		return ids, &Lack{What: fmt.Sprintf("user %s has no subordinate ids (%v)", me.Username, err), Fix: fix, Err: err}
	}
	for _, m := range uids {
		ids.UIDs += uint64(m.Size)
	}
	for _, m := range gids {
		ids.GIDs += uint64(m.Size)
	}
	if ids.UIDs < MinIDs || ids.GIDs < MinIDs {
		return ids, &Lack{
			What: fmt.Sprintf("user %s has %d subordinate user ids and %d group ids, a system image needs %d of each", me.Username, ids.UIDs, ids.GIDs, MinIDs),
			Fix:  fix,
		}
	}
	ids.FirstUID, ids.FirstGID = uids[0].HostID, gids[0].HostID
	return ids, nil
}

// freeIDs is the first of MinIDs+1 ids from 100000 on, as useradd counts, that are nobody's yet.
func freeIDs() uint64 {
	type span struct{ first, end uint64 }
	var taken []span
	for _, path := range []string{"/etc/subuid", "/etc/subgid"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			field := strings.Split(strings.TrimSpace(lines.Text()), ":")
			if len(field) != 3 {
				continue
			}
			first, err := strconv.ParseUint(field[1], 10, 32)
			count, countErr := strconv.ParseUint(field[2], 10, 32)
			if err == nil && countErr == nil {
				taken = append(taken, span{first, first + count})
			}
		}
		f.Close()
	}
	slices.SortFunc(taken, func(a, b span) int { return int(int64(a.first) - int64(b.first)) })
	next := uint64(100000)
	for _, s := range taken {
		if s.first > next+MinIDs {
			break
		}
		next = max(next, s.end)
	}
	return next
}

// TryUserNamespace starts a process in a user namespace. If that is refused it returns a
// *Lack that says by whom, as far as that can be told.
func TryUserNamespace(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "--version")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	if err == nil {
		return nil
	}
	refused := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("start a process in a user namespace: %w", ctx.Err())
	case errors.Is(err, unix.ENOSPC):
		return &Lack{
			What: fmt.Sprintf("there are as many user namespaces as there may be (%s is %s)", switches[0].path, setting(switches[0].path)),
			Fix:  switches[0].fix, Err: err,
		}
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return &Lack{What: fmt.Sprintf("the kernel has no user namespaces (%v)", err), Fix: "start a kernel that was built with CONFIG_USER_NS", Err: err}
	case refused && setting(apparmorSwitch) == "1":
		return &Lack{
			What: fmt.Sprintf("AppArmor does not let this program make user namespaces (%s is 1): %v", apparmorSwitch, err),
			Fix:  "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0", Err: err,
		}
	case errors.Is(err, unix.EACCES) && setting("/sys/fs/selinux/enforce") == "1":
		return &Lack{
			What: fmt.Sprintf("SELinux does not let %s make user namespaces: %v", setting("/proc/self/attr/current"), err),
			Fix:  "sudo ausearch -m AVC -c ossify --raw | audit2allow -M ossify && sudo semodule -i ossify.pp", Err: err,
		}
	case refused && filtered():
		return &Lack{
			What: fmt.Sprintf("a system-call filter, as containers have one, does not let this process make user namespaces: %v", err),
			Fix:  "podman run --security-opt seccomp=unconfined ... # or run ossify outside of the container", Err: err,
		}
	}
	return &Lack{What: fmt.Sprintf("no process can be started in a user namespace: %v", err), Fix: "sudo dmesg | tail # may tell who refuses it", Err: err}
}

// filtered says whether this process has a system-call filter (proc(5)).
func filtered() bool { return ProcessStatus("Seccomp") == "2" }

// ProcessStatus is a field of this process's /proc/self/status, "" if it is not there.
func ProcessStatus(field string) string {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
