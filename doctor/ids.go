package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/sandbox"
	"golang.org/x/sys/unix"
)

// needless says why this process needs no subordinate ids, "" if it does.
func needless() string {
	switch {
	case sandbox.Inside():
		return "not needed: this is inside ossify unshare"
	case sandbox.AsRoot():
		return "not needed by root"
	}
	return ""
}

func subordinateIDs(context.Context) Check {
	if why := needless(); why != "" {
		return ok("%s", why)
	}
	ids, err := sandbox.CheckSubordinateIDs()
	if err != nil {
		return lacking(err)
	}
	return ok("%s has %d user ids and %d group ids", ids.User, ids.UIDs, ids.GIDs)
}

// idTools lets both programs write a map, if there are ids to put in it.
func (o *Options) idTools(ctx context.Context) Check {
	if why := needless(); why != "" {
		return ok("%s", why)
	}
	for _, tool := range sandbox.IDTools {
		if err := sandbox.CheckIDTool(tool); err != nil {
			return lacking(err)
		}
	}
	ids, idsErr := sandbox.CheckSubordinateIDs()
	tried := true
	for i, tool := range sandbox.IDTools {
		path, err := exec.LookPath(tool)
		if err != nil {
			return lacking(err)
		}
		first, own := ids.FirstUID, os.Getuid()
		if i == 1 {
			first, own = ids.FirstGID, os.Getgid()
		}
		if err = idsErr; err == nil {
			err = o.writeMap(ctx, path, own, first)
		}
		noNamespace := (*namespaceError)(nil)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return lacking(ctx.Err())
		case idsErr == nil && !errors.As(err, &noNamespace):
			return toolFails(tool, path, err.Error())
		case !privileged(path):
			return toolFails(tool, path, "")
		default:
			tried = false
		}
	}
	if !tried {
		return ok("installed; not tried, for what is missing above")
	}
	return ok("both write maps")
}

// toolFails says why newuidmap does not do its work.
func toolFails(tool, path, said string) Check {
	found := strings.TrimSuffix(fmt.Sprintf("%s does not work: %s", path, said), ": ")
	system := "/usr/bin/" + tool
	switch {
	case sandbox.ProcessStatus("NoNewPrivs") == "1":
		return bad(tool+" has no effect, as this process has no_new_privs, like all of its container or service",
			"podman run --security-opt no-new-privileges=false ... # or set NoNewPrivileges=no in the service")
	case path != system && privileged(system):
		return bad(found+"; the system's is "+system, "export PATH=/usr/bin:$PATH")
	case !privileged(path):
		return bad(fmt.Sprintf("%s has neither the setuid bit nor file capabilities", path), "sudo chmod u+s "+path)
	case nosuid(path):
		return bad(fmt.Sprintf("%s is on a filesystem that is mounted nosuid", path), "sudo mount -o remount,suid "+mountPoint(path))
	}
	fix := module.InstallCommand(tool)
	fix = strings.Replace(fix, "apt-get install", "apt-get install --reinstall", 1)
	return bad(found, strings.Replace(fix, "dnf install", "dnf reinstall", 1))
}

// privileged says whether a program gets privileges when it is started.
func privileged(path string) bool {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	if sys, is := st.Sys().(*syscall.Stat_t); is && sys.Uid == 0 && st.Mode()&os.ModeSetuid != 0 {
		return true
	}
	n, err := unix.Getxattr(path, "security.capability", nil)
	return err == nil && n > 0
}

// nosuid says whether the kernel ignores what privileged sees.
func nosuid(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Flags&unix.ST_NOSUID != 0
}

// namespaceError says that there is no user namespace to try something in.
type namespaceError struct{ error }

// Unwrap returns why.
func (e *namespaceError) Unwrap() error { return e.error }

// writeMap lets newuidmap or newgidmap write the map of a new user namespace.
func (o *Options) writeMap(ctx context.Context, tool string, own int, first uint32) error {
	// Its process waits for the end of its input.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	sleeper := exec.CommandContext(ctx, o.Try[0], append(o.Try[1:len(o.Try):len(o.Try)], tryWait)...)
	sleeper.Stdin = r
	sleeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	if err := sleeper.Start(); err != nil {
		return &namespaceError{err}
	}
	defer func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}()
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, tool, strconv.Itoa(sleeper.Process.Pid), "0", strconv.Itoa(own), "1", "1", strconv.Itoa(int(first)), "1")
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = waitDelay
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if text := strings.TrimSpace(said.String()); text != "" {
			return errors.New(strings.TrimPrefix(firstLine(text), filepath.Base(tool)+": "))
		}
		return err
	}
	return nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
