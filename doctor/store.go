package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/store"
	"golang.org/x/sys/unix"
)

// elsewhere is a place for stores on the system's own disk.
const elsewhere = "/var/tmp"

// otherPlace chooses that.
const otherPlace = "export OSSIFY_STORE=" + elsewhere + "/ossify-$USER # or a place on another ext4, xfs or btrfs"

// place is the store's directory, and the nearest one of those above it that is there, which may be
// itself.
func (o *Options) place() (dir, there string, err error) {
	dir, err = store.Directory(o.Store)
	if err != nil {
		return "", "", err
	}
	for there = dir; ; there = filepath.Dir(there) {
		st, err := os.Stat(there)
		if err == nil && !st.IsDir() {
			return dir, there, fmt.Errorf("%s is no directory", there)
		}
		if err == nil {
			return dir, there, nil
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) || there == filepath.Dir(there) {
			return dir, there, err
		}
	}
}

// mountOf is the mount that a path is on, nil if that cannot be told.
func mountOf(path string) *mountinfo.Info {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	list, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return nil
	}
	var best *mountinfo.Info
	for _, info := range list {
		if best == nil || len(info.Mountpoint) >= len(best.Mountpoint) {
			best = info
		}
	}
	return best
}

func mountPoint(path string) string {
	if info := mountOf(path); info != nil {
		return info.Mountpoint
	}
	return "/"
}

// fsType is the type of the filesystem that a path is on.
func fsType(path string) string {
	if info := mountOf(path); info != nil {
		return info.FSType
	}
	return "a filesystem of unknown type"
}

func (o *Options) storeDirectory(ctx context.Context) Check {
	dir, there, err := o.place()
	if err != nil {
		return bad(err.Error(), otherPlace)
	}
	if err := unix.Access(there, unix.W_OK|unix.X_OK); err != nil {
		return bad(fmt.Sprintf("%s cannot be written to: %v", there, err), otherPlace)
	}
	if dir != there {
		return ok("%s, on %s; the first build makes it", dir, fsType(there))
	}
	err = o.try(ctx, tryStore, o.Store)
	if outside := (*namespaceError)(nil); errors.As(err, &outside) && ctx.Err() == nil {
		return ok("%s, on %s; not opened, as the build namespace cannot be entered", dir, fsType(dir))
	}
	switch {
	case err == nil:
		return ok("%s, on %s, can be opened", dir, fsType(dir))
	case ctx.Err() != nil:
		return lacking(ctx.Err())
	}
	c := bad(err.Error(), "ossify unshare rm -rf "+dir)
	c.Lost = "every build; removing the store loses its checkpoints and downloads"
	if text, damaged := strings.CutPrefix(c.Found, metadataMark); damaged {
		c = bad(text, "ossify store check --repair --store "+o.Store)
	}
	return c
}

// overlayMounts mounts an overlay where the store is or would be.
func (o *Options) overlayMounts(ctx context.Context) Check {
	_, there, err := o.place()
	if err != nil {
		return follows("not tried: " + err.Error())
	}
	tried := o.overlayIn(ctx, there)
	outside := (*namespaceError)(nil)
	switch {
	case tried == nil:
		return ok("work in user namespaces on %s, with attributes", fsType(there))
	case ctx.Err() != nil, errors.Is(tried, context.DeadlineExceeded):
		return lacking(context.DeadlineExceeded)
	case errors.As(tried, &outside):
		return follows("not tried, as there is no user namespace to do it in")
	case errors.Is(tried, errNoPlace):
		return follows("not " + tried.Error())
	}
	found := fmt.Sprintf("fail on %s (%s): %v", fsType(there), there, tried)
	switch {
	case strings.Contains(tried.Error(), unix.ENODEV.Error()):
		return bad(found, "sudo modprobe overlay")
	case fsType(there) != fsType(elsewhere) && o.overlayIn(ctx, elsewhere) == nil:
		return bad(found, otherPlace)
	}
	return bad(found, "sudo dmesg | tail # says what overlay refuses")
}

// errNoPlace says that nothing can be written where the overlay should be.
var errNoPlace = errors.New("tried")

// overlayIn mounts an overlay in a directory; the error is a *namespaceError if there is no
// namespace for it.
func (o *Options) overlayIn(ctx context.Context, dir string) (err error) {
	scratch, err := os.MkdirTemp(dir, ".ossify-doctor-")
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errNoPlace, dir, cause(err))
	}
	mapped, plain := filepath.Join(scratch, "mapped"), filepath.Join(scratch, "plain")
	defer func() {
		for _, d := range []string{mapped, plain} {
			_ = os.Chmod(filepath.Join(d, "work", "work"), 0o700) // the kernel makes it 0
		}
		err = errors.Join(err, overlay.RemoveAll(scratch))
	}()
	if err := errors.Join(os.Mkdir(mapped, 0o755), os.Mkdir(plain, 0o755)); err != nil {
		return fmt.Errorf("%w: %w", errNoPlace, err)
	}
	// What hangs there shall leave time for the other way.
	half, cancel := context.WithTimeout(ctx, o.Limit/2)
	defer cancel()
	err = o.try(half, tryOverlay, mapped)
	if outside := (*namespaceError)(nil); errors.As(err, &outside) && ctx.Err() == nil {
		_, err = o.start(ctx, ownNamespace(), tryPlainOverlay, plain)
	}
	if half.Err() != nil && errors.Is(err, half.Err()) {
		return context.DeadlineExceeded
	}
	return err
}

const (
	// roomy is what the store of an image of a distribution and the image take.
	roomy = 4 << 30
	// tight is what not even a small build is done with.
	tight = 64 << 20
	// files are as many as a distribution has.
	files = 100_000
)

func (o *Options) diskSpace(context.Context) Check {
	dir, there, err := o.place()
	if err != nil {
		return follows("not known: " + err.Error())
	}
	var st unix.Statfs_t
	if err := unix.Statfs(there, &st); err != nil {
		return lacking(&os.PathError{Op: "statfs", Path: there, Err: err})
	}
	if st.Blocks == 0 {
		return follows(fmt.Sprintf("none on %s", fsType(there)))
	}
	free := int64(st.Bavail) * st.Frsize
	fix := "df -h # and choose a place with export OSSIFY_STORE=DIRECTORY"
	if dir == there {
		fix = "ossify store prune --keep-last 1 --store " + o.Store
	}
	found := fmt.Sprintf("%s free on the filesystem of %s", monitor.Bytes(free), there)
	switch {
	case free < tight:
		c := bad(found, fix)
		c.State, c.Lost = Missing, noBuild
		return c
	case free < roomy:
		return bad(fmt.Sprintf("%s; an image of a distribution takes up to %s", found, monitor.Bytes(roomy)), fix)
	case st.Files > 0 && st.Ffree < files:
		return bad(fmt.Sprintf("%d files more fit on the filesystem of %s; a distribution has up to %d", st.Ffree, there, files), fix)
	}
	return ok("%s", found)
}
