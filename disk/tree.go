package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ossify/ossify/record"
)

const blockSize = 4096

// content is the part of a tree that goes into one filesystem.
type content struct {
	part *Partition
	// source is the directory with the content; empty if the tree has none.
	source string
	// covered lists the mount points of other filesystems directly in this
	// one, relative to source; created lists those the tree does not have.
	covered, created []string

	// record is that of the files of this filesystem, with paths as seen from it.
	record record.Record

	files int64 // inodes
	bytes int64 // of data and directories, in whole blocks
	// early and late tell whether there are times before 1970 and after
	// 2037.
	early, late bool
}

// contents is a scanned tree.
type contents struct {
	parts []*content // one for each mounted filesystem, in the layout's order
	// newest modification time in the tree, in seconds since 1970.
	newest int64
}

// scan walks the tree once and deals it out to the filesystems of the layout.
func scan(ctx context.Context, tree string, l *Layout) (*contents, error) {
	all := &contents{}
	byMount := map[string]*content{}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.Filesystem == nil || p.Filesystem.Type == "swap" {
			continue
		}
		c := &content{part: p}
		dir, err := realDir(tree, p.Filesystem.Mountpoint)
		if err != nil {
			return nil, err
		}
		c.source = dir
		all.parts = append(all.parts, c)
		byMount[p.Filesystem.Mountpoint] = c
	}
	for mount, c := range byMount {
		if mount == "/" {
			continue
		}
		outer, _ := l.holder(path.Dir(mount))
		parent := byMount[outer.Filesystem.Mountpoint]
		rel := strings.TrimPrefix(strings.TrimPrefix(mount, outer.Filesystem.Mountpoint), "/")
		if c.source == "" {
			parent.created = append(parent.created, rel)
		} else {
			parent.covered = append(parent.covered, rel)
		}
	}
	if err := all.walk(ctx, tree, byMount); err != nil {
		return nil, fmt.Errorf("scan tree: %w", err)
	}
	return all, nil
}

// realDir returns the directory of a mount point, or "" if there is none. A
// mount point behind a symbolic link would be filled with the wrong files.
func realDir(tree, mount string) (string, error) {
	dir := tree
	for _, part := range strings.Split(strings.Trim(mount, "/"), "/") {
		dir = filepath.Join(dir, part)
		info, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		if !info.IsDir() {
			return "", fmt.Errorf("mountpoint %s: %s in the tree is not a directory", mount, strings.TrimPrefix(dir, tree))
		}
	}
	return dir, nil
}

type inodeKey struct{ dev, ino uint64 }

func (all *contents) walk(ctx context.Context, tree string, byMount map[string]*content) error {
	// A walk is depth first, so the filesystem of a directory's children is
	// known when they come.
	owner := map[string]*content{}
	linked := map[inodeKey]bool{}
	return filepath.WalkDir(tree, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		inside := path.Join("/", strings.TrimPrefix(name, tree))
		c, mounted := byMount[inside]
		if !mounted {
			c = owner[path.Dir(inside)]
		}
		if info.IsDir() {
			owner[inside] = c
		} else if stat.Nlink > 1 {
			key := inodeKey{uint64(stat.Dev), stat.Ino}
			if linked[key] {
				return nil
			}
			linked[key] = true
		}
		if stat.Mtim.Sec < math.MinInt32 || stat.Mtim.Sec > math.MaxUint32 {
			return fmt.Errorf("%s was modified at %d seconds since 1970, which filesystems cannot store: touch it in an earlier stage", inside, stat.Mtim.Sec)
		}
		c.early = c.early || stat.Mtim.Sec < 0
		c.late = c.late || stat.Mtim.Sec > math.MaxInt32
		all.newest = max(all.newest, stat.Mtim.Sec)
		c.files++
		c.bytes += diskUsage(info, stat)
		return nil
	})
}

// diskUsage is what a file needs in blocks; holes need none.
func diskUsage(info fs.FileInfo, stat *syscall.Stat_t) int64 {
	whole := (info.Size() + blockSize - 1) / blockSize * blockSize
	switch {
	case info.IsDir():
		return max(whole, blockSize)
	case info.Mode().IsRegular():
		return min(whole, (stat.Blocks*512+blockSize-1)/blockSize*blockSize)
	case info.Mode()&fs.ModeSymlink != 0 && info.Size() >= 60: // longer than the inode has room for
		return blockSize
	}
	return 0
}

// fits refuses a tree that is certainly too large, before any work.
func (c *content) fits() error {
	if c.bytes > c.part.sizeBytes() {
		return c.tooLarge(nil)
	}
	return nil
}

// tooLarge explains what does not fit and what would.
func (c *content) tooLarge(err error) error {
	const mib = 1 << 20
	// Inode tables, journal and 5 % for root come on top of the data.
	need := (c.bytes+c.files*256)*110/100 + 64*mib
	need = (need + mib - 1) / mib * mib
	mount := c.part.Filesystem.Mountpoint
	msg := fmt.Sprintf("the tree is larger than the disk: %s holds %d files with %d MiB of data, but its %s filesystem has %d MiB: set the partition's size to at least %d sectors (%d MiB), and the disk's size accordingly",
		mount, c.files, (c.bytes+mib-1)/mib, c.part.Filesystem.Type, c.part.sizeBytes()/mib, need/sectorSize, need/mib)
	if err == nil {
		return errors.New(msg)
	}
	return fmt.Errorf("%s: %w", msg, err)
}
