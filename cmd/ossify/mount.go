package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// A mount is to stay when "ossify store mount" has ended, and with it the use of the
// store, which keeps others from removing what is mounted. Both belong to "ossify
// unshare": the mount to its mount namespace, the use to a lock of its processes.
//
//	ossify unshare      opens the store's lock file, and does not lock it
//	  | sh              inherits the open file
//	  |   | ossify store mount    locks it: the lock belongs to the open file
//	  |   | ...                   (flock(2)), which the shell still has
//	  |   | ossify store umount   unlocks it if nothing else is mounted
//
// When the last process is gone, mount and lock are.

// lockEnv carries the number of that descriptor.
const lockEnv = "_OSSIFY_STORE_LOCK"

// leaveLock opens the lock file of the store, if there is one, for the program that is
// started next.
func (o *storeOptions) leaveLock() error {
	os.Setenv(lockEnv, "none")
	path, err := store.UseLock(o.store)
	if err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open store %s: %w", o.store, err)
	}
	defer unix.Close(fd)
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD, keptFD)
	if err != nil {
		return fmt.Errorf("keep the lock of store %s: %w", o.store, err)
	}
	return os.Setenv(lockEnv, strconv.Itoa(kept))
}

// leftLock is the descriptor that leaveLock left, if that is of this store.
func (o *storeOptions) leftLock() (int, error) {
	text := os.Getenv(lockEnv)
	if text == "" {
		return 0, errors.New("a checkpoint is mounted inside ossify unshare, and as long as that runs: ossify unshare sh -c 'cd $(ossify store mount ID) && ls'")
	}
	var want, got unix.Stat_t
	path, err := store.UseLock(o.store)
	if err != nil {
		return 0, err
	}
	if err := unix.Stat(path, &want); err != nil {
		return 0, o.exists()
	}
	fd, err := strconv.Atoi(text)
	if err != nil || unix.Fstat(fd, &got) != nil || got.Dev != want.Dev || got.Ino != want.Ino {
		return 0, fmt.Errorf("this ossify unshare is not for store %s: start it as ossify unshare --store %[1]s", o.store)
	}
	return fd, nil
}

func storeMount() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:   "mount ID [DIR]",
		Short: "Mount a checkpoint, inside ossify unshare",
		Long: `Mounts the tree of a checkpoint, read-only, on an empty directory or a new one, and prints that.
It works inside ossify unshare; when that ends the mount goes, and until then nothing is removed from the store:

  ossify unshare sh -c 'cd $(ossify store mount ID) && du -sh usr'`,
		Args:              arguments(1, 2, "a checkpoint, and perhaps a directory, are"),
		ValidArgsFunction: completeIDs(&o, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			lock, err := o.leftLock()
			if err != nil {
				return err
			}
			// The mount is for this namespace, so no other is entered.
			return o.openStore(func(s *store.Store) error {
				list, err := s.Checkpoints()
				if err != nil {
					return err
				}
				c, err := findCheckpoint(list, args[0])
				if err != nil {
					return err
				}
				// Nobody waits for it, as openStore has one.
				if err := unix.Flock(lock, unix.LOCK_SH); err != nil {
					return fmt.Errorf("lock store %s: %w", s.Dir(), err)
				}
				dir, err := mountCheckpoint(s, c, append(args, "")[1])
				if err == nil {
					fmt.Println(dir)
				}
				return err
			})
		},
	}
	o.addStore(cmd)
	return cmd
}

func storeUnmount() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:               "umount ID|DIR...",
		Aliases:           []string{"unmount"},
		Short:             "Take away what ossify store mount has mounted",
		Args:              arguments(1, -1, "at least one checkpoint or directory is"),
		ValidArgsFunction: completeIDs(&o, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			lock, err := o.leftLock()
			if err != nil {
				return err
			}
			for _, arg := range args {
				if err := unmountCheckpoint(arg); err != nil {
					return err
				}
			}
			if left, err := mounted(); err != nil || len(left) > 0 {
				return err
			}
			return unix.Flock(lock, unix.LOCK_UN)
		},
	}
	o.addStore(cmd)
	return cmd
}

// mountSource begins what lists of mounts call these; the id follows.
const mountSource = "ossify:"

// mounted are the checkpoints that are mounted in this namespace.
func mounted() ([]*mountinfo.Info, error) {
	list, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		return info.FSType != "overlay" || !strings.HasPrefix(info.Source, mountSource), false
	})
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return list, nil
}

// mountCheckpoint mounts a checkpoint on dir; if that is "", on a directory that goes with
// the namespace.
func mountCheckpoint(s *store.Store, c store.Checkpoint, dir string) (_ string, err error) {
	id := cmp.Or(c.ID, c.Layer)
	if dir == "" {
		if dir, err = mountPlace(s, short(id)); err != nil {
			return "", err
		}
		if there, err := mountinfo.Mounted(dir); err != nil || there {
			return dir, err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	// A single layer is mounted together with what is in the directory (overlay.Stack).
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("%s is not empty", dir)
	}
	layer, err := s.Layer(c.Layer)
	if err != nil {
		return "", err
	}
	stack, err := s.ReadOnly(layer)
	if err != nil {
		return "", err
	}
	stack.Source = mountSource + id
	_, err = stack.Mount(dir)
	return dir, err
}

// mountPlace makes a directory that only this namespace has: the store has an empty one, on
// which there is a tmpfs.
func mountPlace(s *store.Store, name string) (string, error) {
	top := filepath.Join(s.Dir(), "mnt")
	if err := os.MkdirAll(top, 0o755); err != nil {
		return "", err
	}
	there, err := mountinfo.Mounted(top)
	if err != nil {
		return "", err
	}
	if !there {
		if err := unix.Mount("tmpfs", top, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return "", &os.PathError{Op: "mount tmpfs", Path: top, Err: err}
		}
	}
	dir := filepath.Join(top, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// unmountCheckpoint takes mounts away, given by their directory or a checkpoint's id.
func unmountCheckpoint(arg string) error {
	list, err := mounted()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(arg)
	if err != nil {
		return err
	}
	found := false
	for _, info := range list {
		if info.Mountpoint != dir && !strings.HasPrefix(info.Source, mountSource+arg) {
			continue
		}
		found = true
		if err := unix.Unmount(info.Mountpoint, unix.UMOUNT_NOFOLLOW); err != nil {
			return &os.PathError{Op: "unmount", Path: info.Mountpoint, Err: err}
		}
	}
	if !found {
		return fmt.Errorf("%s is not mounted here", arg)
	}
	return nil
}
