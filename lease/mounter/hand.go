package mounter

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

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

// handLimit is how long the child may take.
const handLimit = 20 * time.Second

// hand makes a copy of a detached mount that can be given away, with the ids mapped.
// The caller closes its descriptor.
func (m *Mounter) hand(mnt int, uids, gids []wire.Range) (fd int, err error) {
	m.placing.Lock()
	defer m.placing.Unlock()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "tree")
	defer theirs.Close()
	conn, err := wire.FileConn(pair[0])
	if err != nil {
		return -1, fmt.Errorf("talk to a child: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(handLimit)); err != nil {
		return -1, fmt.Errorf("talk to a child: %w", err)
	}

	runtime.LockOSThread() // it ends with the thread that starts it
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args, cmd.Env = []string{os.Args[0], "tree"}, []string{}
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
		if err != nil {
			cmd.Process.Kill()
		}
		if waitErr := cmd.Wait(); waitErr != nil && err == nil {
			err = fmt.Errorf("copy the mount: %w", waitErr)
		}
		if err != nil && fd >= 0 {
			unix.Close(fd)
		}
	}()

	ids, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	if err != nil {
		return -1, fmt.Errorf("find the user namespace: %w", err)
	}
	defer ids.Close()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ids.Fd())}
	if err := unix.MountSetattr(mnt, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return -1, fmt.Errorf("map the ids of the mount: %w", err)
	}
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return -1, fmt.Errorf("attach the mount: %w", err)
	}
	defer func() {
		if unmountErr := unix.Unmount(place, unix.MNT_DETACH); unmountErr != nil {
			err = errors.Join(err, fmt.Errorf("detach the mount: %w", unmountErr))
		}
	}()
	if err := wire.Send(conn, []byte{0}); err != nil {
		return -1, fmt.Errorf("talk to a child: %w", err)
	}
	_, files, err := wire.Receive(conn)
	if err != nil || len(files) != 1 {
		wire.CloseAll(files)
		return -1, fmt.Errorf("copy the mount: %w", errors.Join(err, wire.Errorf(syscall.EIO, "the child has made no copy")))
	}
	return files[0], nil
}

func mappings(ranges []wire.Range) (out []syscall.SysProcIDMap) {
	for _, r := range ranges {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(r.Disk), HostID: int(r.Host), Size: int(r.Count)})
	}
	return out
}

// ranges are those of a map that have ids.
func ranges(m [wire.MaxRanges]wire.Range) []wire.Range {
	return slices.DeleteFunc(m[:], func(r wire.Range) bool { return r.Count == 0 })
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
		return fmt.Errorf("wait for the mount: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, place, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("copy the mount: %w", err)
	}
	return wire.Send(conn, []byte{0}, fd)
}
