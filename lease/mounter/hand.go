package mounter

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

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
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "tree")
	defer theirs.Close()
	conn, err := wire.FileConn(pair[0])
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args, cmd.Env = []string{"ossify-loop", "tree"}, []string{}
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: mappings(uids), GidMappings: mappings(gids),
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return -1, fmt.Errorf("make a user namespace: %w", err)
	}
	theirs.Close()
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
