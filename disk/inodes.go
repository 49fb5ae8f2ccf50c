package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// Offsets and bits of ext4's structures, from the kernel's
// Documentation/filesystems/ext4.
const (
	superOffset      = 1024
	ext4Magic        = 0xef53
	incompat64Bit    = 0x80
	incompatCsumSeed = 0x2000
	roCompatCsum     = 0x400
	groupInodeUninit = 0x1
	rootInode        = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ext4 is what is needed to find the inodes of a filesystem in an image.
type ext4 struct {
	image     *os.File
	offset    int64 // of the filesystem in the image
	block     int64
	groups    int64
	perGroup  int64
	inodeSize int64
	descSize  int64
	wide      bool // 64-bit group descriptors
	checksums bool
	seed      uint32
}

// normalizeExt4 gives every inode of a new filesystem the modification time as
// access and change time (mke2fs takes those of the source, which differ each
// time), its root directory the source's owner, mode and time, and times after
// 2037 the bit that mke2fs leaves out. Extended attributes are sorted.
func normalizeExt4(image *os.File, offset int64, c *content) error {
	if c.early && c.late {
		return fmt.Errorf("%s holds files with times before 1970 and files with times after 2037; mke2fs mixes them up: touch one kind in an earlier stage", c.part.Filesystem.Mountpoint)
	}
	fs, err := openExt4(image, offset)
	if err != nil {
		return fmt.Errorf("normalize ext4: %w", err)
	}
	mode, uid, gid, mtime, err := c.rootStat()
	if err != nil {
		return err
	}
	change := func(number int64, p []byte) {
		le := binary.LittleEndian
		if number == rootInode {
			le.PutUint16(p[0x00:], le.Uint16(p[0x00:])&0xf000|uint16(mode))
			le.PutUint16(p[0x02:], uint16(uid))
			le.PutUint16(p[0x18:], uint16(gid))
			le.PutUint16(p[0x78:], uint16(uid>>16))
			le.PutUint16(p[0x7a:], uint16(gid>>16))
			if c.source != "" {
				le.PutUint32(p[0x10:], uint32(mtime))
			}
		}
		mtime, extra := le.Uint32(p[0x10:]), uint32(0)
		if c.late && mtime >= 1<<31 {
			extra = 1 // seconds are 32 bits with sign, plus this times 2^32
		}
		le.PutUint32(p[0x08:], mtime)
		le.PutUint32(p[0x0c:], mtime)
		le.PutUint32(p[0x84:], extra)
		le.PutUint32(p[0x88:], extra)
		le.PutUint32(p[0x8c:], extra)
	}
	if err := fs.eachInode(change); err != nil {
		return fmt.Errorf("normalize ext4: %w", err)
	}
	return nil
}

func openExt4(image *os.File, offset int64) (*ext4, error) {
	sb := make([]byte, 1024)
	if _, err := image.ReadAt(sb, offset+superOffset); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if le.Uint16(sb[0x38:]) != ext4Magic {
		return nil, errors.New("no ext4 superblock")
	}
	incompat := le.Uint32(sb[0x60:])
	fs := &ext4{
		image:     image,
		offset:    offset,
		block:     1024 << (le.Uint32(sb[0x18:]) & 15),
		perGroup:  int64(le.Uint32(sb[0x28:])),
		inodeSize: int64(le.Uint16(sb[0x58:])),
		descSize:  32,
		wide:      incompat&incompat64Bit != 0,
		checksums: le.Uint32(sb[0x64:])&roCompatCsum != 0,
		// Go's checksum inverts before and after, the kernel's does not.
		seed: crc32.Checksum(sb[0x68:0x78], castagnoli),
	}
	if fs.wide {
		fs.descSize = int64(le.Uint16(sb[0xfe:]))
	}
	inodes := int64(le.Uint32(sb[0x00:]))
	info, err := image.Stat()
	if err != nil {
		return nil, err
	}
	// A group's inodes have one block of bits.
	switch {
	case fs.block != blockSize, fs.inodeSize != 256, fs.descSize < 32, fs.wide && fs.descSize < 64,
		fs.perGroup == 0, fs.perGroup > 8*blockSize, inodes%fs.perGroup != 0,
		inodes/fs.perGroup*fs.descSize > info.Size():
		return nil, errors.New("superblock is not as mke2fs was told to make it")
	case incompat&incompatCsumSeed != 0:
		return nil, errors.New("mke2fs made a metadata_csum_seed it was not asked for")
	}
	fs.groups = inodes / fs.perGroup
	return fs, nil
}

// eachInode sorts the extended attributes of every inode in use, lets change
// edit it and stores it with a new checksum.
func (fs *ext4) eachInode(change func(number int64, p []byte)) error {
	descs := make([]byte, fs.groups*fs.descSize)
	if _, err := fs.image.ReadAt(descs, fs.offset+fs.block); err != nil {
		return err
	}
	le := binary.LittleEndian
	for g := range fs.groups {
		desc := descs[g*fs.descSize:]
		if le.Uint16(desc[0x12:])&groupInodeUninit != 0 {
			continue
		}
		table, unused := int64(le.Uint32(desc[0x08:])), int64(le.Uint16(desc[0x1c:]))
		if fs.wide {
			table |= int64(le.Uint32(desc[0x28:])) << 32
			unused |= int64(le.Uint16(desc[0x32:])) << 16
		}
		if unused > fs.perGroup {
			return fmt.Errorf("group %d has %d unused inodes of %d", g, unused, fs.perGroup)
		}
		at := fs.offset + table*fs.block
		inodes := make([]byte, (fs.perGroup-unused)*fs.inodeSize)
		if _, err := fs.image.ReadAt(inodes, at); err != nil {
			return err
		}
		for i := range fs.perGroup - unused {
			p := inodes[i*fs.inodeSize : (i+1)*fs.inodeSize]
			if le.Uint16(p[0x1a:]) == 0 { // no links: not in use
				continue
			}
			number := g*fs.perGroup + i + 1
			if err := fs.sortXattrs(p); err != nil {
				return fmt.Errorf("inode %d: %w", number, err)
			}
			change(number, p)
			fs.sum(number, p)
		}
		if _, err := fs.image.WriteAt(inodes, at); err != nil {
			return err
		}
	}
	return nil
}

// sum stores the checksum of an inode.
func (fs *ext4) sum(number int64, p []byte) {
	if !fs.checksums {
		return
	}
	le := binary.LittleEndian
	le.PutUint16(p[0x7c:], 0)
	le.PutUint16(p[0x82:], 0)
	crc := crc32.Update(fs.seed, castagnoli, le.AppendUint32(nil, uint32(number)))
	crc = crc32.Update(crc, castagnoli, p[0x64:0x68])
	crc = ^crc32.Update(crc, castagnoli, p)
	le.PutUint16(p[0x7c:], uint16(crc))
	le.PutUint16(p[0x82:], uint16(crc>>16))
}
