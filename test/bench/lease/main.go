// Command lease times how long ossify-loop takes for a mounted ext4, and a copy to
// it. It is run in a user namespace (`ossify unshare`):
//
//	lease SOCKET DIRECTORY MOUNTPOINT
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/ossify/ossify/lease"
	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

const size = 1 << 30

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: lease SOCKET DIRECTORY MOUNTPOINT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "lease:", err)
		os.Exit(1)
	}
}

func run(socket, dir, mountpoint string) error {
	ctx := context.Background()
	uids, err := ranges("/proc/self/uid_map")
	if err != nil {
		return err
	}
	gids, err := ranges("/proc/self/gid_map")
	if err != nil {
		return err
	}
	start := time.Now()
	lap := func(what string) {
		fmt.Printf("%-10s %7.1f ms\n", what, float64(time.Since(start).Microseconds())/1000)
		start = time.Now()
	}
	conn, err := lease.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Create(ctx, size); err != nil {
		return err
	}
	index, err := conn.Partition(ctx, size, 512)
	if err != nil {
		return err
	}
	lap("lease")
	fs := lease.Filesystem{Type: wire.Ext4}
	_, _ = rand.Read(fs.UUID[:])
	if err := conn.Mkfs(ctx, index, fs); err != nil {
		return err
	}
	lap("mkfs")
	mount, err := conn.Mount(ctx, index, lease.MountOptions{UIDs: uids, GIDs: gids})
	if err != nil {
		return err
	}
	defer mount.Close()
	lap("mount")
	if err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, mountpoint, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach the mount: %w", err)
	}
	if out, err := exec.Command("cp", "-a", dir, mountpoint).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	top, err := os.Open(mountpoint)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(top.Fd()))
	top.Close()
	if err != nil {
		return err
	}
	lap("copy")
	return unix.Unmount(mountpoint, unix.MNT_DETACH)
}

// ranges reads a map of ids.
func ranges(path string) (out []wire.Range, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		var r wire.Range
		if _, err := fmt.Sscan(line, &r.Disk, &r.Host, &r.Count); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}
