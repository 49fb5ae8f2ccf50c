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
)

// mkfsLimit is how long mkfs may take.
const mkfsLimit = 5 * time.Minute

// mkfs makes a filesystem in the file. The program runs as a user who has nothing but
// this file, for so long; it gets its capabilities, network and system calls from
// the mounter, who has few of them, and from its user, who has fewer.
func (p *partition) mkfs(r *wire.Mkfs) (err error) {
	if err := p.release(grace); err != nil {
		return err
	}
	path := "/usr/sbin/mkfs." + r.Type.String()
	if _, err := os.Stat(path); err != nil {
		path = strings.TrimPrefix(path, "/usr")
	}
	p.kind = 0
	if err := p.file.Chown(confine.MkfsID, confine.MkfsID); err != nil {
		return fmt.Errorf("give the partition to mkfs: %w", err)
	}
	err = run(p.file, path, append(mkfsArgs(r, p.sector), "/proc/self/fd/3"))
	if ownErr := p.file.Chown(0, 0); err != nil || ownErr != nil {
		return errors.Join(err, wire.In("take the partition from mkfs", ownErr))
	}
	if st, err := p.file.Stat(); err != nil || uint64(st.Size()) != p.size {
		return wire.Errorf(syscall.EIO, "mkfs.%s has changed the partition's size from %d bytes", r.Type, p.size)
	}
	if err := p.allocate(); err != nil {
		return err
	}
	p.kind = r.Type
	return nil
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
	case ctx.Err() != nil:
		return wire.Errorf(syscall.ETIMEDOUT, "%s has not ended in %s", path, mkfsLimit)
	case errors.Is(err, os.ErrNotExist):
		return wire.Errorf(syscall.ENOENT, "%s is not installed on this machine", path)
	case err != nil:
		return wire.Errorf(syscall.EIO, "%s: %v: %s", path, err, strings.ToValidUTF8(strings.TrimSpace(string(output)), "?"))
	}
	return nil
}
