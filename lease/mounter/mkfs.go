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
// the mounter, who has few of them, and from its user, who has fewer.
func (p *partition) mkfs(r *wire.Mkfs) (err error) {
	if p.mounted(grace) {
		return wire.Errorf(syscall.EBUSY, "the filesystem is mounted: unmount it first")
	}
	path := "/usr/sbin/mkfs." + r.Type.String()
	if _, err := os.Stat(path); err != nil {
		path = strings.TrimPrefix(path, "/usr")
	}
	p.kind = 0
	if err := unix.Fchown(p.fd(), confine.MkfsID, confine.MkfsID); err != nil {
		return fmt.Errorf("give the partition to mkfs: %w", err)
	}
	defer func() {
		if ownErr := unix.Fchown(p.fd(), 0, 0); ownErr != nil {
			p.kind, err = 0, errors.Join(err, fmt.Errorf("take the partition from mkfs: %w", ownErr))
		}
	}()
	if err := run(p.file, path, append(mkfsArgs(r, p.sector), "/proc/self/fd/3")); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(p.fd(), &st); err != nil || uint64(st.Size) != p.size {
		return wire.Errorf(syscall.EIO, "mkfs.%s has changed the partition's size from %d bytes to %d", r.Type, p.size, st.Size)
	}
	if err := p.allocate(); err != nil {
		return err
	}
	p.kind = r.Type
	return nil
}

// mkfsArgs are the arguments of the program. Nothing is discarded, for a file would
// get holes.
func mkfsArgs(r *wire.Mkfs, sector uint32) (args []string) {
	add := func(a ...string) { args = append(args, a...) }
	u := r.UUID
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	switch r.Type {
	case wire.Ext4:
		add("-F", "-q", "-E", "nodiscard", "-U", uuid)
		if sector > 1024 {
			add("-b", fmt.Sprint(sector)) // small filesystems have smaller blocks
		}
		if r.Set&wire.LazyInit != 0 {
			value := map[bool]string{false: "0", true: "1"}[r.On&wire.LazyInit != 0]
			add("-E", "lazy_itable_init="+value, "-E", "lazy_journal_init="+value)
		}
		for _, feature := range []struct {
			name   string
			option wire.Options
		}{{"verity", wire.Verity}, {"orphan_file", wire.OrphanFile}, {"metadata_csum_seed", wire.MetadataCsumSeed}} {
			switch {
			case r.Set&feature.option == 0:
			case r.On&feature.option != 0:
				add("-O", feature.name)
			default:
				add("-O", "^"+feature.name)
			}
		}
	case wire.XFS:
		add("-f", "-q", "-K", "-s", fmt.Sprintf("size=%d", sector), "-m", "uuid="+uuid)
		if r.Groups != 0 {
			add("-d", fmt.Sprintf("agcount=%d", r.Groups))
		}
	case wire.Btrfs:
		add("-f", "-q", "-K", "-U", uuid)
		if r.Set&wire.MetadataDup != 0 {
			add("-m", map[bool]string{false: "single", true: "dup"}[r.On&wire.MetadataDup != 0])
		}
	}
	if label, _ := wire.String(r.Label[:]); label != "" {
		add("-L", label)
	}
	return args
}

// run runs a mkfs program, with the file as descriptor 3. It ends with this process:
// the thread that starts it waits for it.
func run(file *os.File, path string, args []string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(context.Background(), mkfsLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{}, "/", time.Second
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: confine.MkfsID, Gid: confine.MkfsID},
		Setsid:     true, Pdeathsig: syscall.SIGKILL,
	}
	output, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return wire.Errorf(syscall.ENOENT, "%s is not installed on this machine", path)
	case ctx.Err() != nil:
		return wire.Errorf(syscall.ETIMEDOUT, "%s has not ended in %s", path, mkfsLimit)
	case err != nil:
		return wire.Errorf(syscall.EIO, "%s: %v: %s", path, err, strings.ToValidUTF8(strings.TrimSpace(string(output)), "?"))
	}
	return nil
}
