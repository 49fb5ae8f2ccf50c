package disk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mke2fsConf replaces the build root's /etc/mke2fs.conf, so that the same
// features come out everywhere. They are those of e2fsprogs 1.43 to 1.46, which
// every GRUB 2 reads; GRUB before 2.12 cannot read metadata_csum_seed.
const mke2fsConf = `[defaults]
	base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
	}
	floppy = {
		blocksize = 4096
	}
	small = {
		blocksize = 4096
	}
	big = {
		blocksize = 4096
	}
	huge = {
		blocksize = 4096
	}
`

const inodeRatio = 16384 // bytes per inode, as in mke2fsConf

// writeExt4 makes the filesystem of c in the raw image, at the partition's
// place, and fills it. scratch is an empty directory.
func (t *tool) writeExt4(ctx context.Context, raw *os.File, c *content, scratch string) error {
	if err := t.mke2fs(ctx, raw.Name(), c, scratch); err != nil {
		if saidAny(err, "Could not allocate block", "No space left on device", "No free space", "Could not allocate inode", "not enough space", "too small") {
			return c.tooLarge(err)
		}
		return err
	}
	if err := t.makeMissing(ctx, raw.Name(), c, scratch); err != nil {
		return err
	}
	if err := t.applyRecord(ctx, raw.Name(), c, scratch); err != nil {
		return err
	}
	return normalizeExt4(raw, c.part.startBytes(), c)
}

func (t *tool) mke2fs(ctx context.Context, raw string, c *content, scratch string) error {
	fs, size := c.part.Filesystem, c.part.sizeBytes()/blockSize*blockSize
	conf := filepath.Join(scratch, "mke2fs.conf")
	if err := os.WriteFile(conf, []byte(mke2fsConf), 0o600); err != nil {
		return err
	}
	// A fresh file is all zeros, so the journal needs no writing.
	extended := fmt.Sprintf("offset=%d,hash_seed=%s,lazy_journal_init=1", c.part.startBytes(), fs.UUID)
	args := []string{"-q", "-F", "-t", "ext4", "-U", fs.UUID, "-E", extended}
	if fs.Label != "" {
		args = append(args, "-L", fs.Label)
	}
	// 11 inodes are reserved; a tenth stays free for the running system.
	if need := (c.files + int64(len(c.created)) + 11) * 110 / 100; need > size/inodeRatio {
		args = append(args, "-N", strconv.FormatInt(need, 10))
	}
	if c.source != "" {
		args = append(args, "-d", c.source)
	}
	args = append(args, raw, fmt.Sprintf("%dk", size/1024))
	env := []string{
		"MKE2FS_CONFIG=" + conf,
		fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", t.epoch),
	}
	return withCovered(c.source, c.covered, scratch, func() error {
		return t.run(ctx, env, nil, "mke2fs", args...)
	})
}

// makeMissing makes the mount points that the tree does not have, with their
// parents, as root's and with mode 0755.
func (t *tool) makeMissing(ctx context.Context, raw string, c *content, scratch string) error {
	if len(c.created) == 0 {
		return nil
	}
	var script strings.Builder
	made := map[string]bool{}
	for _, rel := range c.created {
		dir := ""
		for _, part := range strings.Split(rel, "/") {
			dir += "/" + part
			if made[dir] {
				continue
			}
			if strings.ContainsAny(dir, "\"\n\\") {
				return fmt.Errorf("mountpoint %q has characters that debugfs cannot take", dir)
			}
			if c.source != "" {
				if _, err := os.Lstat(filepath.Join(c.source, dir)); err == nil {
					continue
				}
			}
			made[dir] = true
			fmt.Fprintf(&script, "mkdir \"%s\"\nstat \"%s\"\n", dir, dir)
		}
	}
	name := filepath.Join(scratch, "debugfs")
	if err := os.WriteFile(name, []byte(script.String()), 0o600); err != nil {
		return err
	}
	env := []string{fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", t.epoch)}
	var shown bytes.Buffer
	err := t.run(ctx, env, &shown, "debugfs", "-w", "-f", name, fmt.Sprintf("%s?offset=%d", raw, c.part.startBytes()))
	if err != nil {
		return err
	}
	// debugfs exits with 0 whatever its commands did.
	if strings.Count(shown.String(), "Type: directory") != len(made) {
		return fmt.Errorf("debugfs could not make the mount points %s: make them in an earlier stage: %s", strings.Join(c.created, ", "), shown.String())
	}
	return nil
}

// rootStat is what the filesystem's root directory should look like; mke2fs
// does not carry that over.
func (c *content) rootStat() (mode, uid, gid uint32, mtime int64, err error) {
	if c.source == "" {
		return 0o755, 0, 0, 0, nil
	}
	var stat unix.Stat_t
	if err := unix.Lstat(c.source, &stat); err != nil {
		return 0, 0, 0, 0, &os.PathError{Op: "lstat", Path: c.source, Err: err}
	}
	return stat.Mode & 0o7777, stat.Uid, stat.Gid, stat.Mtim.Sec, nil
}
