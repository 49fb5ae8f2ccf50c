// Ossify-loop is the privileged helper of ossify: it makes and mounts filesystems
// for people without root. docs/helper.md says what it does and refuses.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/ossify/ossify/lease"
	"github.com/ossify/ossify/lease/broker"
	"github.com/ossify/ossify/lease/confine"
	"github.com/ossify/ossify/lease/mounter"
	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// options are those of the command line. The processes that the helper starts get
// the same ones.
type options struct {
	listen, group, staging string
	quota                  uint64
	leases                 int
	flags                  []string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "ossify-loop: %v\n", err)
		os.Exit(1)
	}
}

// run takes the process to where its arguments say. There are four beside the
// user's own two: "ossify-loop broker-root" becomes "broker", the first one itself
// becomes "mounter", and the mounter starts "tree".
func run() error {
	role, args := "", os.Args[min(1, len(os.Args)):]
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		role, args = args[0], args[1:]
	}
	o := options{flags: args}
	set := flag.NewFlagSet("ossify-loop [status]", flag.ExitOnError)
	set.StringVar(&o.listen, "listen", "", "`path` of the socket to make and listen at (status: to ask); without it systemd passes one")
	set.StringVar(&o.group, "group", "ossify", "`group` whose users can have leases")
	set.StringVar(&o.staging, "staging", "/var/lib/ossify-loop", "`directory` for the bytes of leases")
	set.Uint64Var(&o.quota, "quota", 64<<30, "`bytes` that all leases of a user may have")
	set.IntVar(&o.leases, "leases", 16, "`number` of leases that a user may have")
	if err := set.Parse(args); err != nil || set.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; ossify-loop [status] takes flags only, see --help", set.Arg(0))
	}
	switch role {
	case "":
		return start(o)
	case "status":
		return lease.PrintStatus(context.Background(), o.listen, os.Stdout)
	case "broker-root":
		return confine.Broker(o.staging, o.arguments("broker"))
	case "broker":
		return broker.Serve(3, 4)
	case "mounter":
		m := mounter.Mounter{Staging: stagingFD, Quota: o.quota, Leases: o.leases, Group: o.group, Log: os.Stderr}
		return m.Serve(mounterFD)
	case "tree":
		return mounter.Tree(3)
	}
	return fmt.Errorf("unknown command %q; there is only: ossify-loop status", role)
}

// arguments are those of the helper's own processes.
func (o options) arguments(role string) []string {
	return append([]string{"ossify-loop", role}, o.flags...)
}

// Descriptors of the mounter, beyond what the runtime uses before it.
const stagingFD, mounterFD = 100, 101

// start makes the socket and the directory, starts the broker and becomes the
// mounter.
func start(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can mount filesystems; start it with: sudo ossify-loop --listen PATH")
	}
	listener, err := inherited()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the broker ends with the thread that starts it
	if err = confine.Start(); err == nil && listener == nil {
		listener, err = listen(o)
	}
	if err != nil {
		return err
	}
	staging, err := openStaging(o.staging)
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair: %w", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args, cmd.Env, cmd.Stderr = o.arguments("broker-root"), []string{}, os.Stderr
	cmd.ExtraFiles = []*os.File{listener, os.NewFile(uintptr(pair[1]), "control")}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	if err := errors.Join(unix.Dup3(staging, stagingFD, 0), unix.Dup3(pair[0], mounterFD, 0)); err != nil {
		return fmt.Errorf("keep descriptors: %w", err)
	}
	return confine.Mounter(o.staging, o.arguments("mounter"))
}

// inherited returns the socket that systemd passes (sd_listen_fds(3)), nil if there is
// none.
func inherited() (*os.File, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	f := os.NewFile(3, "listener")
	l, err := net.FileListener(f)
	if err != nil || os.Getenv("LISTEN_FDS") != "1" || l.Addr().Network() != "unixpacket" {
		return nil, errors.New("what systemd passes is not one listening unix socket; use ListenSequentialPacket= in the socket unit")
	}
	return f, nil
}

// listen makes the socket, for the group.
func listen(o options) (*os.File, error) {
	if o.listen == "" {
		return nil, errors.New("no socket was passed; give a path with: ossify-loop --listen PATH")
	}
	if err := checkDirectory(filepath.Dir(o.listen), 0o002); err != nil {
		return nil, err
	}
	g, err := user.LookupGroup(o.group)
	if err != nil {
		return nil, fmt.Errorf("there is no group %s; add it with: sudo groupadd --system %s (%w)", o.group, o.group, err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if c, err := net.Dial("unixpacket", o.listen); err == nil {
		c.Close()
		return nil, fmt.Errorf("another ossify-loop listens at %s", o.listen)
	} else if st, err := os.Lstat(o.listen); err == nil && st.Mode().Type() == fs.ModeSocket {
		os.Remove(o.listen) // an earlier ossify-loop's
	}
	l, listenErr := net.ListenUnix("unixpacket", &net.UnixAddr{Name: o.listen, Net: "unixpacket"})
	if err = cmp.Or(err, listenErr); err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chown(o.listen, 0, gid), os.Chmod(o.listen, 0o660)); err != nil {
		return nil, fmt.Errorf("give the socket to the group %s: %w", o.group, err)
	}
	return l.File()
}

// checkDirectory refuses a directory in which others could put things in our way.
func checkDirectory(dir string, others fs.FileMode) error {
	st, err := os.Lstat(dir)
	if err != nil || !filepath.IsAbs(dir) || !st.IsDir() || st.Mode().Perm()&others != 0 || st.Sys().(*syscall.Stat_t).Uid != 0 {
		return fmt.Errorf("%s must be an absolute path of a directory of root's that others cannot write to, and a staging directory one that only root can enter (chmod 700): %v", dir, cmp.Or(err, error(unix.EPERM)))
	}
	return nil
}

// openStaging makes the staging directory, and opens it with a mount of its own: the
// mounter's view of it is another.
func openStaging(dir string) (int, error) {
	if err := checkDirectory(filepath.Dir(dir), 0o022); err != nil {
		return -1, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return -1, fmt.Errorf("make the staging directory: %w", err)
	}
	if err := checkDirectory(dir, 0o077); err != nil {
		return -1, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	return fd, wire.In("open the staging directory", err)
}
