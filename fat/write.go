package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/ossify/ossify/sparse"
	"golang.org/x/sys/unix"
)

// Of the library only reading is used: what it writes has faults that fsck.fat
// finds (empty files with clusters, parents of directories, free clusters).

// node is a file or directory to be written.
type node struct {
	name, path string
	// short is the name of eight and three characters; alias tells that the long
	// one has to be written as well.
	short    [11]byte
	alias    bool
	dir      bool
	size     int64
	time     time.Time
	children []*node
	// first of its clusters, which follow each other, and their number. The root
	// directory of a FAT32 has its first one elsewhere.
	first, count int64
}

// Refill replaces everything by what is in the directory dir. Volume id and label
// stay; one directory always makes the same bytes. Owners, permissions and
// attributes are not kept, as FAT has none. What does not fit, or cannot be
// stored, is refused before anything is written.
func (f *Filesystem) Refill(dir string) error {
	if err := check(dir); err != nil {
		return err
	}
	root := &node{path: dir, dir: true}
	if err := root.scan(); err != nil {
		return err
	}
	label, err := f.label()
	if err != nil {
		return fmt.Errorf("read the root directory: %w", err)
	}
	w := &writer{Filesystem: f, label: label, next: 2}
	if err := w.place(root); err != nil {
		return err
	}
	if err := w.empty(); err != nil {
		return fmt.Errorf("empty the FAT: %w", err)
	}
	if err := w.write(root, nil); err != nil {
		return err
	}
	return w.writeTables(root)
}

// scan reads what is in a directory and chooses the short names.
func (n *node) scan() error {
	entries, err := os.ReadDir(n.path)
	if err != nil {
		return err
	}
	taken := map[[11]byte]bool{}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return err
		}
		child := &node{name: entry.Name(), path: filepath.Join(n.path, entry.Name()), dir: entry.IsDir(), time: storable(info.ModTime())}
		if !child.dir {
			child.size = info.Size()
		}
		child.short, child.alias = shortName(child.name, taken)
		taken[child.short] = true
		if child.dir {
			if err := child.scan(); err != nil {
				return err
			}
		}
		n.children = append(n.children, child)
	}
	return nil
}

// storable is the time nearest to t that a FAT can have: from 1980 to 2107, in
// steps of two seconds.
func storable(t time.Time) time.Time {
	first, last := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
	if t.Before(first) {
		return first
	}
	if t.After(last) {
		return last
	}
	return t.UTC().Truncate(2 * time.Second)
}

// shortName returns the name itself if it is one of eight and three capitals, else
// one that is not taken, and whether they differ.
func shortName(name string, taken map[[11]byte]bool) (short [11]byte, alias bool) {
	base, suffix := name, ""
	if dot := strings.LastIndexByte(name, '.'); dot > 0 {
		base, suffix = name[:dot], name[dot+1:]
	}
	shortBase, shortSuffix := shorten(base), shorten(suffix)
	fits := len(shortBase) <= 8 && len(shortSuffix) <= 3 && shortBase != ""
	lossless := strings.EqualFold(shortBase, base) && strings.EqualFold(shortSuffix, suffix)
	shortSuffix = shortSuffix[:min(3, len(shortSuffix))]
	if fits && lossless {
		short = pad(shortBase, shortSuffix)
		if !taken[short] {
			return short, shortBase != base || shortSuffix != suffix
		}
	}
	for n := 1; ; n++ {
		tail := fmt.Sprintf("~%d", n)
		short = pad(shortBase[:min(8-len(tail), len(shortBase))]+tail, shortSuffix)
		if !taken[short] {
			return short, true
		}
	}
}

// shorten leaves of a name what a short one can have.
func shorten(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ' || r == '.':
			return -1
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r > ' ' && r < 0x7f && !strings.ContainsRune("+,;=[]", r):
			return r
		}
		return '_'
	}, name)
}

func pad(base, suffix string) (short [11]byte) {
	copy(short[:], fmt.Sprintf("%-8s%-3s", base, suffix))
	return short
}

// writer fills an empty filesystem.
type writer struct {
	*Filesystem
	// label is the entry of the volume's label, or nothing.
	label []byte
	// next is the first free cluster.
	next int64
}

// entries is the number of entries that a directory needs.
func (w *writer) entries(n *node, isRoot bool) int64 {
	count := int64(2)
	if isRoot {
		count = int64(len(w.label) / 32)
	}
	for _, child := range n.children {
		count++
		if child.alias {
			count += longEntries(child.name)
		}
	}
	return count
}

// longEntries is the number of entries that a long name needs.
func longEntries(name string) int64 {
	return (int64(len(utf16.Encode([]rune(name)))) + longChars - 1) / longChars
}

// place gives everything its clusters.
func (w *writer) place(root *node) error {
	l := &w.layout
	if size := w.entries(root, true) * 32; l.bits == 32 {
		if l.rootCluster != 2 {
			return errors.New("its root directory is not at its beginning, which Ossify cannot fill: make the filesystem with mkfs.fat")
		}
		w.next++
		root.count = (max(size, 1) + l.cluster - 1) / l.cluster
		root.first = w.next
		w.next += root.count - 1
	} else if size > l.rootSize {
		return fmt.Errorf("the FAT's root directory has room for %d entries, where %d are needed (long names take several): put files into directories", l.rootSize/32, size/32)
	}
	w.placeBelow(root)
	if missing := w.next - 2 - l.clusters; missing > 0 {
		return fmt.Errorf("no space left: the FAT's %d bytes are %d too few", l.clusters*l.cluster, missing*l.cluster)
	}
	return nil
}

func (w *writer) placeBelow(dir *node) {
	for _, n := range dir.children {
		size := n.size
		if n.dir {
			size = w.entries(n, false) * 32
		}
		n.first, n.count = w.next, (size+w.layout.cluster-1)/w.layout.cluster
		w.next += n.count
		if n.count == 0 {
			n.first = 0
		}
		if n.dir {
			w.placeBelow(n)
		}
	}
}

// clusters of a node, in their order.
func (w *writer) clustersOf(n *node, isRoot bool) []int64 {
	var out []int64
	count := n.count
	if isRoot && w.layout.bits == 32 {
		out = append(out, int64(w.layout.rootCluster))
		count--
	}
	for i := range count {
		out = append(out, n.first+i)
	}
	return out
}

// at is where in the image a cluster lies.
func (w *writer) at(cluster int64) int64 { return w.layout.dataAt + (cluster-2)*w.layout.cluster }

// empty takes away all files, and the bytes that they had.
func (w *writer) empty() error {
	l := w.layout
	// The first two entries of a table are no clusters.
	keep := map[int]int64{12: 3, 16: 4, 32: 8}[l.bits]
	for i := range l.tables {
		at := l.tableAt + int64(i)*l.tableSize
		if err := w.zero(at+keep, l.tableSize-keep); err != nil {
			return err
		}
	}
	return errors.Join(w.zero(l.rootAt, l.rootSize), w.zero(l.dataAt, l.size-l.dataAt))
}

// label returns the entry of the root directory with the volume's label, or
// nothing. Its time, which is that of mkfs.fat, is the first that a FAT can have.
func (f *Filesystem) label() ([]byte, error) {
	root := make([]byte, f.layout.rootSize)
	if _, err := f.image.ReadAt(root, f.layout.rootAt); err != nil {
		return nil, err
	}
	for ; len(root) >= 32 && root[0] != 0; root = root[32:] {
		const volume, long = 0x08, 0x0f
		if attributes := root[11]; root[0] != 0xe5 && attributes&volume != 0 && attributes != long {
			const first = 0x21 // 1980-01-01
			for at, value := range map[int]uint16{14: 0, 16: first, 18: first, 22: 0, 24: first} {
				binary.LittleEndian.PutUint16(root[at:], value)
			}
			return root[:32], nil
		}
	}
	return nil, nil
}

// zero makes n bytes zeros, and holes where whole blocks can be.
func (w *writer) zero(at, n int64) error {
	return unix.Fallocate(int(w.image.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
}

// write writes a directory and all below it; above is nil for the root.
func (w *writer) write(dir, above *node) error {
	var data []byte
	if above == nil {
		data = append(data, w.label...)
	} else {
		// The root directory is cluster 0 for those below it, even in a FAT32.
		parent := above.first
		if above.name == "" {
			parent = 0
		}
		data = append(data, entry(&node{short: pad(".", ""), dir: true, time: dir.time}, dir.first)...)
		data = append(data, entry(&node{short: pad("..", ""), dir: true, time: dir.time}, parent)...)
	}
	for _, n := range dir.children {
		if n.alias {
			data = append(data, longName(n)...)
		}
		data = append(data, entry(n, n.first)...)
	}
	if above == nil && w.layout.bits != 32 {
		if _, err := w.image.WriteAt(data, w.layout.rootAt); err != nil {
			return err
		}
	}
	for i, cluster := range w.clustersOf(dir, above == nil) {
		part := data[min(int64(i)*w.layout.cluster, int64(len(data))):min(int64(i+1)*w.layout.cluster, int64(len(data)))]
		if _, err := w.image.WriteAt(part, w.at(cluster)); err != nil {
			return err
		}
	}
	for _, n := range dir.children {
		var err error
		if n.dir {
			err = w.write(n, dir)
		} else if n.size > 0 {
			err = w.copy(n)
		}
		if err != nil {
			return fmt.Errorf("write %s to the FAT: %w", n.name, err)
		}
	}
	return nil
}

func (w *writer) copy(n *node) error {
	src, err := os.Open(n.path)
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if st.Size() != n.size {
		return errors.New("its size changes while it is copied")
	}
	return sparse.Copy(w.image, w.at(n.first), src, 0, n.size)
}

// entry is the directory entry of n with its short name.
func entry(n *node, first int64) []byte {
	e := make([]byte, 32)
	copy(e, n.short[:])
	e[11] = 0x20 // to be archived, as all new files
	if n.dir {
		e[11] = 0x10
	}
	t := n.time
	clock := uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2)
	date := uint16((t.Year()-1980)<<9 | int(t.Month())<<5 | t.Day())
	put := binary.LittleEndian.PutUint16
	put(e[14:], clock) // made
	put(e[16:], date)
	put(e[18:], date) // read
	put(e[20:], uint16(first>>16))
	put(e[22:], clock) // written
	put(e[24:], date)
	put(e[26:], uint16(first))
	binary.LittleEndian.PutUint32(e[28:], uint32(n.size))
	return e
}

// longChars is the number of characters, of 16 bits, in an entry of a long name.
const longChars = 13

// longName is the entries of n's long name, the last part first.
func longName(n *node) []byte {
	sum := byte(0)
	for _, c := range n.short {
		sum = (sum>>1 | sum<<7) + c
	}
	chars := utf16.Encode([]rune(n.name))
	count := int(longEntries(n.name))
	if len(chars)%longChars != 0 {
		chars = append(chars, 0)
	}
	for len(chars) < count*longChars {
		chars = append(chars, 0xffff)
	}
	var out []byte
	for i := count; i > 0; i-- {
		e := make([]byte, 32)
		e[0], e[11], e[13] = byte(i), 0x0f, sum
		if i == count {
			e[0] |= 0x40
		}
		for k, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			binary.LittleEndian.PutUint16(e[at:], chars[(i-1)*longChars+k])
		}
		out = append(out, e...)
	}
	return out
}

// writeTables writes the tables: each cluster says which one follows it.
func (w *writer) writeTables(root *node) error {
	l := w.layout
	last := int64(1)<<min(l.bits, 28) - 1
	next := make([]int64, l.clusters+2)
	chain := func(clusters []int64) {
		for i, cluster := range clusters {
			next[cluster] = last
			if i+1 < len(clusters) {
				next[cluster] = clusters[i+1]
			}
		}
	}
	chain(w.clustersOf(root, true))
	var below func(dir *node)
	below = func(dir *node) {
		for _, n := range dir.children {
			chain(w.clustersOf(n, false))
			below(n)
		}
	}
	below(root)
	table := make([]byte, (int64(l.bits)*int64(len(next))+7)/8)
	for cluster, value := range next {
		switch l.bits {
		case 12:
			at := cluster * 3 / 2
			if cluster%2 == 0 {
				table[at], table[at+1] = byte(value), table[at+1]|byte(value>>8)
			} else {
				table[at], table[at+1] = table[at]|byte(value<<4), byte(value>>4)
			}
		case 16:
			binary.LittleEndian.PutUint16(table[cluster*2:], uint16(value))
		case 32:
			binary.LittleEndian.PutUint32(table[cluster*4:], uint32(value))
		}
	}
	skip := int64(l.bits) * 2 / 8 // the first two entries stay
	for i := range l.tables {
		if _, err := w.image.WriteAt(table[skip:], l.tableAt+int64(i)*l.tableSize+skip); err != nil {
			return fmt.Errorf("write the tables: %w", err)
		}
	}
	if l.infoAt == 0 {
		return nil
	}
	used := w.next - 2
	info := binary.LittleEndian.AppendUint32(nil, uint32(l.clusters-used))
	info = binary.LittleEndian.AppendUint32(info, uint32(w.next))
	if _, err := w.image.WriteAt(info, l.infoAt+488); err != nil {
		return fmt.Errorf("write the number of free clusters: %w", err)
	}
	return nil
}

// check refuses what a FAT cannot store.
func check(dir string) error {
	seen := map[string]string{}
	return filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		inside := strings.TrimPrefix(name, dir+"/")
		if !entry.IsDir() && !entry.Type().IsRegular() {
			return fmt.Errorf("/%s is neither a file nor a directory, and a FAT has nothing else: leave it out", inside)
		}
		if err := validName(entry.Name()); err != nil {
			return fmt.Errorf("/%s: %w", inside, err)
		}
		folded := strings.ToUpper(inside)
		if other, ok := seen[folded]; ok {
			return fmt.Errorf("/%s and /%s are one name for a FAT, which knows no case: rename one", other, inside)
		}
		seen[folded] = inside
		info, err := entry.Info()
		if err == nil && info.Size() > 1<<32-1 {
			err = fmt.Errorf("/%s has more than 4 GiB, the most of a FAT", inside)
		}
		return err
	})
}
