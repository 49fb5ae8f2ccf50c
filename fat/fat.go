package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/fat12"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
)

// Filesystem is a FAT that fills a file.
type Filesystem struct {
	image  *os.File
	layout layout
}

// layout says where the parts of the filesystem lie, in bytes, as its boot sector
// has it (Microsoft's "FAT: General Overview of On-Disk Format").
type layout struct {
	// bits of an entry of the table: 12, 16 or 32.
	bits int
	// size of the whole, tableAt and tableSize of the first of its tables.
	size, tableAt, tableSize int64
	tables                   int
	// rootAt and rootSize are those of the root directory, which has a
	// cluster of its own in a FAT32.
	rootAt, rootSize int64
	// rootCluster is 0 but in a FAT32.
	rootCluster uint32
	// dataAt is where the clusters begin, of which there are so many of so many
	// bytes each.
	dataAt, clusters, cluster int64
	// infoAt is the sector with the number of free clusters, 0 for none.
	infoAt int64
}

// Open reads the boot sector of the filesystem in image, which stays the
// caller's.
func Open(image *os.File) (*Filesystem, error) {
	var boot [512]byte
	if _, err := image.ReadAt(boot[:], 0); err != nil {
		return nil, fmt.Errorf("read the boot sector: %w", err)
	}
	l, err := parse(&boot)
	if err != nil {
		return nil, err
	}
	st, err := image.Stat()
	if err != nil {
		return nil, err
	}
	if l.size > st.Size() {
		return nil, fmt.Errorf("the filesystem says that it has %d bytes, of which %d are there", l.size, st.Size())
	}
	return &Filesystem{image: image, layout: l}, nil
}

// parse reads a boot sector.
func parse(boot *[512]byte) (layout, error) {
	word := func(at int) int64 { return int64(binary.LittleEndian.Uint16(boot[at:])) }
	long := func(at int) int64 { return int64(binary.LittleEndian.Uint32(boot[at:])) }
	sector, perCluster, tables, entries := word(11), int64(boot[13]), int64(boot[16]), word(17)
	if boot[510] != 0x55 || boot[511] != 0xaa || sector != 512 || perCluster == 0 || perCluster&(perCluster-1) != 0 || tables == 0 || word(14) == 0 {
		return layout{}, errors.New("it is no FAT filesystem with sectors of 512 bytes")
	}
	total, table := word(19), word(22)
	if total == 0 {
		total = long(32)
	}
	l := layout{tables: int(tables), tableAt: word(14) * sector, rootSize: entries * 32}
	if table == 0 {
		table = long(36)
		l.rootCluster = uint32(long(44))
		l.infoAt = word(48) * sector
	}
	l.size, l.tableSize = total*sector, table*sector
	l.rootAt = l.tableAt + tables*l.tableSize
	l.dataAt = l.rootAt + (l.rootSize+sector-1)/sector*sector
	l.cluster = perCluster * sector
	l.clusters = (l.size - l.dataAt) / l.cluster
	switch {
	case l.dataAt >= l.size:
		return layout{}, errors.New("it is no FAT filesystem: its parts do not fit into it")
	case l.clusters < 4085:
		l.bits = 12
	case l.clusters < 65525:
		l.bits = 16
	default:
		l.bits = 32
	}
	if int64(l.bits)*(l.clusters+2) > l.tableSize*8 {
		return layout{}, errors.New("it is no FAT filesystem: its tables are too small")
	}
	if (l.bits == 32) != (l.rootCluster != 0) {
		return layout{}, fmt.Errorf("its boot sector is that of another kind of FAT than one with %d clusters", l.clusters)
	}
	if l.bits == 32 {
		l.rootAt = l.dataAt + int64(l.rootCluster-2)*l.cluster
		l.rootSize = l.cluster
		if l.rootCluster < 2 || l.rootAt+l.rootSize > l.size || l.tableSize < int64(l.rootCluster+1)*4 {
			return layout{}, errors.New("its root directory lies outside of it")
		}
	}
	return l, nil
}

// read opens the filesystem with the library, which keeps a copy of the tables.
func (f *Filesystem) read() (filesystem.FileSystem, error) {
	storage := file.New(f.image, false)
	switch f.layout.bits {
	case 12:
		return fat12.Read(storage, f.layout.size, 0, 512)
	case 16:
		return fat16.Read(storage, f.layout.size, 0, 512)
	default:
		return fat32.Read(storage, f.layout.size, 0, 512)
	}
}

// Extract copies everything into the directory dir, which is empty. Files get the
// permissions 0777 without those of umask; their times are UTC.
func (f *Filesystem) Extract(dir string, umask os.FileMode) error {
	from, err := f.read()
	if err != nil {
		return fmt.Errorf("read the FAT: %w", err)
	}
	if err := os.Chmod(dir, 0o777&^umask); err != nil {
		return err
	}
	return extract(from, ".", dir, 0o777&^umask)
}

func extract(from filesystem.FileSystem, name, dir string, mode os.FileMode) error {
	entries, err := from.ReadDir(name)
	if err != nil {
		return fmt.Errorf("read directory %s of the FAT: %w", name, err)
	}
	for _, entry := range entries {
		if entry.Name() == "." || entry.Name() == ".." {
			continue
		}
		if err := validName(entry.Name()); err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		inside, outside := path.Join(name, entry.Name()), filepath.Join(dir, entry.Name())
		if entry.IsDir() {
			if err = os.Mkdir(outside, mode); err == nil {
				err = extract(from, inside, outside, mode)
			}
		} else {
			err = extractFile(from, inside, outside, info.Size())
		}
		if err == nil {
			err = os.Chmod(outside, mode)
		}
		if err == nil {
			err = os.Chtimes(outside, info.ModTime(), info.ModTime())
		}
		if err != nil {
			return fmt.Errorf("copy %s of the FAT: %w", inside, err)
		}
	}
	return nil
}

func extractFile(from filesystem.FileSystem, inside, outside string, size int64) error {
	if size == 0 { // the library wants a cluster
		return os.WriteFile(outside, nil, 0o600)
	}
	src, err := from.Open(inside)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(outside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// validName refuses names that a FAT cannot have, and those that lead elsewhere
// in a directory.
func validName(name string) error {
	if len(utf16.Encode([]rune(name))) > 255 || name != strings.ToValidUTF8(name, "") || strings.HasSuffix(name, " ") || strings.HasSuffix(name, ".") ||
		strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || strings.ContainsRune(`"*/:<>?\|`, r) }) {
		return fmt.Errorf("%q is no name for a FAT", name)
	}
	return nil
}
