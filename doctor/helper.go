package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ossify/ossify/lease"
	"github.com/ossify/ossify/lease/wire"
	"github.com/ossify/ossify/sandbox"
	"golang.org/x/sys/unix"
)

// helper asks ossify-loop for its status.
func (o *Options) helper(ctx context.Context) Check {
	if sandbox.AsRoot() {
		return ok("not needed by root, who mounts without it")
	}
	c, err := lease.Dial(ctx, o.Helper)
	if err != nil {
		return o.noHelper(ctx, err)
	}
	defer c.Close()
	table, err := c.Status(ctx)
	if err != nil {
		return o.noHelper(ctx, err)
	}
	return ok("answers at %s, version %d of its protocol, %d of %d leases taken", o.Helper, wire.Version, len(table.Leases), table.Limit)
}

// noHelper says why ossify-loop does not do what it is asked for.
func (o *Options) noHelper(ctx context.Context, err error) Check {
	var refused *lease.Error
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return bad("there is no "+o.Helper, o.startHelper())
	case errors.As(err, &refused):
		// Such as who is not in the group, or another version.
		if found, fix, cut := strings.Cut(err.Error(), "; add them with: "); cut {
			return bad(found, fix+" # and log in again")
		}
		return bad(err.Error(), "sudo make install-helper")
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return o.closedHelper()
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EPROTOTYPE):
		return bad("nobody listens at "+o.Helper, o.startHelper())
	case ctx.Err() != nil:
		return bad("no answer at "+o.Helper, o.restartHelper())
	}
	return bad(err.Error(), o.restartHelper())
}

// closedHelper says what is needed for a socket that this process may not open.
func (o *Options) closedHelper() Check {
	found := o.Helper + " is closed to you"
	name := "USER"
	me, err := user.Current()
	if err == nil {
		name = me.Username
	}
	st, statErr := os.Stat(o.Helper)
	if statErr != nil {
		return bad(found, "ls -ld "+filepath.Dir(o.Helper)+" # its directory has to be open to you")
	}
	if st.Mode()&os.ModeSocket == 0 {
		return bad(o.Helper+" is no socket", "unset OSSIFY_HELPER # and name ossify-loop's with --helper, if it is not at "+lease.DefaultPath)
	}
	if sandbox.Inside() {
		return bad(found+" in here", "exit # and ask again outside of ossify unshare")
	}
	if st.Sys().(*syscall.Stat_t).Gid == 0 {
		// Nobody should be put into that group for it.
		return bad(found+", and its group is root's", "sudo make install-helper")
	}
	gid := strconv.Itoa(int(st.Sys().(*syscall.Stat_t).Gid))
	group := gid
	if g, err := user.LookupGroupId(gid); err == nil {
		group = g.Name
	}
	if err == nil {
		if ids, err := me.GroupIds(); err == nil && slices.Contains(ids, gid) {
			return bad(fmt.Sprintf("%s; you are in its group %s, but this session began before", found, group), "newgrp "+group+" # or log in again")
		}
	}
	return bad(fmt.Sprintf("%s: you are not in the group %s", found, group), fmt.Sprintf("sudo usermod --append --groups %s %s # and log in again", group, name))
}

// startHelper is the command that installs and starts it, or starts what is installed.
func (o *Options) startHelper() string {
	_, err := exec.LookPath("ossify-loop")
	if err != nil && !exists("/usr/local/libexec/ossify-loop") {
		return "sudo make install-helper"
	}
	if exists("/run/systemd/system") {
		return "sudo systemctl enable --now ossify-loop.socket"
	}
	return fmt.Sprintf("sudo mkdir -p %s && sudo ossify-loop --listen %s &", filepath.Dir(o.Helper), o.Helper)
}

func (o *Options) restartHelper() string {
	if exists("/run/systemd/system") {
		return "sudo systemctl restart ossify-loop.service"
	}
	return "sudo ossify-loop status # asks it as root"
}
