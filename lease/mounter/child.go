package mounter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/ossify/ossify/lease/confine"
	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// mkfsLimit is how long mkfs may take.
const mkfsLimit = 5 * time.Minute

// mkfs makes a filesystem in the file. The program runs as a user who has nothing but
// this file, for so long; it gets its capabilities, network and system calls from
// the mounter, who has few of them, and from its user, who has fewer. It ends with the
// mounter: the thread that starts it waits for it.
func (p *partition) mkfs(r *wire.Mkfs) (err error) {
	if err := p.release(grace); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(context.Background(), mkfsLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/sbin/mkfs."+r.Type.String(), append(mkfsArgs(r, p.sector), "/proc/self/fd/3")...)
	cmd.Env, cmd.Dir, cmd.WaitDelay, cmd.ExtraFiles = []string{}, "/", time.Second, []*os.File{p.file}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: confine.MkfsID, Gid: confine.MkfsID}, Setsid: true, Pdeathsig: syscall.SIGKILL,
	}
	p.kind = 0
	if err := p.file.Chown(confine.MkfsID, confine.MkfsID); err != nil {
		return fmt.Errorf("give the partition to mkfs: %w", err)
	}
	output, err := cmd.CombinedOutput()
	ownErr := p.file.Chown(0, 0)
	st, statErr := p.file.Stat()
	switch {
	case ctx.Err() != nil:
		return wire.Errorf(syscall.ETIMEDOUT, "%s has not ended in %s", cmd.Path, mkfsLimit)
	case errors.Is(err, os.ErrNotExist):
		return wire.Errorf(syscall.ENOENT, "%s is not installed on this machine", cmd.Path)
	case err != nil:
		return wire.Errorf(syscall.EIO, "%s: %v: %s", cmd.Path, err, strings.ToValidUTF8(strings.TrimSpace(string(output)), "?"))
	case ownErr != nil || statErr != nil || uint64(st.Size()) != p.size:
		return wire.Errorf(syscall.EIO, "%s has not left %d bytes: %v", cmd.Path, p.size, errors.Join(ownErr, statErr))
	}
	if err = p.allocate(); err == nil {
		p.kind = r.Type
	}
	return err
}

// choices are arguments for options that are false and true.
var choices = []struct {
	option  wire.Options
	off, on []string
}{
	{wire.LazyInit, []string{"-E", "lazy_itable_init=0", "-E", "lazy_journal_init=0"}, []string{"-E", "lazy_itable_init=1", "-E", "lazy_journal_init=1"}},
	{wire.Verity, []string{"-O", "^verity"}, []string{"-O", "verity"}},
	{wire.OrphanFile, []string{"-O", "^orphan_file"}, []string{"-O", "orphan_file"}},
	{wire.MetadataCsumSeed, []string{"-O", "^metadata_csum_seed"}, []string{"-O", "metadata_csum_seed"}},
	{wire.MetadataDup, []string{"-m", "single"}, []string{"-m", "dup"}},
}

// mkfsArgs are the arguments of the program. Nothing is discarded, for a file would
// get holes.
func mkfsArgs(r *wire.Mkfs, sector uint32) (args []string) {
	u := r.UUID
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	switch r.Type {
	case wire.Ext4:
		args = []string{"-F", "-q", "-E", "nodiscard", "-U", uuid}
		if sector > 1024 {
			args = append(args, "-b", fmt.Sprint(sector)) // small filesystems have smaller blocks
		}
	case wire.XFS:
		args = []string{"-f", "-q", "-K", "-s", fmt.Sprintf("size=%d", sector), "-m", "uuid=" + uuid}
		if r.Groups != 0 {
			args = append(args, "-d", fmt.Sprintf("agcount=%d", r.Groups))
		}
	case wire.Btrfs:
		args = []string{"-f", "-q", "-K", "-U", uuid}
	}
	for _, c := range choices {
		switch {
		case r.On&c.option != 0:
			args = append(args, c.on...)
		case r.Set&c.option != 0:
			args = append(args, c.off...)
		}
	}
	if label, _ := wire.String(r.Label[:]); label != "" {
		args = append(args, "-L", label)
	}
	return args
}

// A mount becomes a client's in these steps. A descriptor of the mount itself would
// let the client clear nosuid, nodev and read-only in their user namespace: those
// are locked only in the copy that a mount namespace of another user namespace makes.
//
//	mounter                                   tree, a child in a new user namespace
//	  | id-map the mount with the namespace     |   with the client's map; not the
//	  | attach it at mnt                        |   client's user id, so that they
//	  | one byte                              → |   cannot touch it
//	  |                                         | new mount namespace: mnt is locked
//	  |                                         | copy the tree of mnt
//	  |                                       ← | the copy's descriptor
//	  | detach mnt, wait for the child          | ends, and its namespaces

// place is where mounts are attached, in the working directory.
const place = "mnt"

// hand makes a copy of a detached mount that can be given away, with the ids mapped.
// The caller closes its descriptor, also beside an error.
func (m *Mounter) hand(mnt int, uids, gids []wire.Range) (fd int, err error) {
	m.placing.Lock()
	defer m.placing.Unlock()
	runtime.LockOSThread() // the child ends with the thread that starts it
	defer runtime.UnlockOSThread()
	conn, other, err := wire.Pair()
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	theirs := os.NewFile(uintptr(other), "tree")
	cmd := exec.Command("/proc/self/exe")
	cmd.Args, cmd.Env = []string{"ossify-loop", "tree"}, []string{}
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: mappings(uids), GidMappings: mappings(gids),
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN}, Pdeathsig: syscall.SIGKILL,
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return -1, fmt.Errorf("make a user namespace: %w", err)
	}
	defer func() {
		conn.Close() // ends a child that still waits
		err = errors.Join(err, wire.In("copy the mount", cmd.Wait()))
	}()
	ids, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	if err != nil {
		return -1, fmt.Errorf("find the user namespace: %w", err)
	}
	defer ids.Close()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ids.Fd())}
	if err = unix.MountSetattr(mnt, "", unix.AT_EMPTY_PATH, &attr); err == nil {
		err = unix.MoveMount(mnt, "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if err != nil {
		return -1, fmt.Errorf("attach the mount, with its ids mapped: %w", err)
	}
	defer func() {
		err = errors.Join(err, wire.In("detach the mount", unix.Unmount(place, unix.MNT_DETACH)))
	}()
	err = wire.Send(conn, []byte{0})
	_, files, receiveErr := wire.Receive(conn)
	if err = errors.Join(err, receiveErr); err != nil || len(files) != 1 {
		wire.CloseAll(files)
		return -1, wire.Errorf(syscall.EIO, "the child has made no copy of the mount: %v", err)
	}
	return files[0], nil
}

func mappings(ranges []wire.Range) (out []syscall.SysProcIDMap) {
	for _, r := range ranges {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(r.Disk), HostID: int(r.Host), Size: int(r.Count)})
	}
	return out
}

// Tree is the child of hand: it copies a mount, and sends the copy over the socket,
// which it takes over.
func Tree(socket int) error {
	runtime.LockOSThread()
	conn, err := wire.FileConn(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, _, err := wire.Receive(conn); err != nil {
		return nil // the mounter has said why
	}
	fd := -1
	if err = unix.Unshare(unix.CLONE_NEWNS); err == nil {
		fd, err = unix.OpenTree(unix.AT_FDCWD, place, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	}
	if err != nil {
		return fmt.Errorf("copy the mount: %w", err)
	}
	return wire.Send(conn, []byte{0}, fd)
}
