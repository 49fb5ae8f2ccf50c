package qcow2

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"os"
)

const (
	magic           = 0x514649fb // "QFI\xfb"
	headerLength    = 112        // version 3 with compression_type, padded to 8
	incompatZstd    = 1 << 3     // "compression type" incompatible feature bit
	featureTable    = 0x6803f857 // header extension: feature names
	refcountOrder   = 4          // 16-bit refcounts, qemu-img's default
	entryCopied     = 1 << 63    // refcount of the cluster is exactly one
	entryCompressed = 1 << 62
	maxL1Bytes      = 32 << 20 // QCOW_MAX_L1_SIZE of qemu
	maxTableBytes   = 8 << 20  // QCOW_MAX_REFTABLE_SIZE of qemu
)

// image lays out and writes the host side of a qcow2 file. Guest clusters must
// be put in growing order. Not safe for concurrent use.
type image struct {
	out         *output
	compression Compression
	clusterBits uint
	clusterSize int64
	size        int64 // virtual size, a multiple of a sector

	refcounts []uint16 // one per host cluster handed out so far
	l1        []uint64 // host offsets of the L2 tables
	l2        []uint64 // entries of the span being filled
	l2Index   int64    // index in l1 of that span; -1 before the first
	l2Used    bool
	packed    packer
}

// newImage prepares an image in dst, of size bytes rounded up to a sector.
func newImage(dst *os.File, size int64, opts Options) (*image, error) {
	m := &image{
		out:         newOutput(dst),
		compression: opts.Compression,
		clusterBits: uint(bits.TrailingZeros(uint(opts.ClusterSize))),
		clusterSize: int64(opts.ClusterSize),
		size:        roundUp(size, sectorSize),
		l2:          make([]uint64, opts.ClusterSize/8),
		l2Index:     -1,
	}
	span := m.clusterSize * int64(len(m.l2))
	entries := m.size / span
	if m.size%span != 0 {
		entries++
	}
	if entries > maxL1Bytes/8 {
		return nil, fmt.Errorf("a disk of %d bytes is too large for clusters of %d bytes, which reach to %d: use larger clusters", size, m.clusterSize, maxL1Bytes/8*span)
	}
	m.l1 = make([]uint64, entries)
	m.allocate(1) // the header's cluster
	return m, nil
}

func roundUp(n, unit int64) int64 {
	return (n + unit - 1) / unit * unit
}

// allocate hands out n host clusters at the end of the file, each with a
// refcount of one, and returns their offset.
func (m *image) allocate(n int64) int64 {
	off := int64(len(m.refcounts)) * m.clusterSize
	for range n {
		m.refcounts = append(m.refcounts, 1)
	}
	return off
}

// putRaw stores consecutive guest clusters, from the guest-th on, as they are;
// the length of data is a multiple of the cluster size.
func (m *image) putRaw(guest int64, data []byte) error {
	for len(data) > 0 {
		if err := m.openSpan(guest); err != nil {
			return err
		}
		// A span's L2 table lies behind its data, so a run ends with it.
		first := guest % int64(len(m.l2))
		n := min(int64(len(data))/m.clusterSize, int64(len(m.l2))-first)
		off := m.allocate(n)
		for i := range n {
			m.l2[first+i] = uint64(off+i*m.clusterSize) | entryCopied
		}
		if err := m.out.writeAt(data[:n*m.clusterSize], off); err != nil {
			return err
		}
		guest, data = guest+n, data[n*m.clusterSize:]
	}
	return nil
}

// putCompressed stores a compressed guest cluster; data is shorter than a
// cluster.
func (m *image) putCompressed(guest int64, data []byte) error {
	if err := m.openSpan(guest); err != nil {
		return err
	}
	off := m.packed.place(m, int64(len(data)))
	firstSector, lastSector := off/sectorSize, (off+int64(len(data))-1)/sectorSize
	x := 62 - (m.clusterBits - 8)
	m.l2[guest%int64(len(m.l2))] = entryCompressed | uint64(lastSector-firstSector)<<x | uint64(off)
	for c := off / m.clusterSize; c <= (off+int64(len(data))-1)/m.clusterSize; c++ {
		if m.refcounts[c] == math.MaxUint16 {
			return fmt.Errorf("internal error: host cluster %d holds more than %d compressed clusters", c, math.MaxUint16)
		}
		m.refcounts[c]++
	}
	return m.out.writeAt(data, off)
}

// openSpan makes the L2 table of a guest cluster the one being filled.
func (m *image) openSpan(guest int64) error {
	index := guest / int64(len(m.l2))
	if index != m.l2Index {
		if err := m.closeSpan(); err != nil {
			return err
		}
		m.l2Index = index
	}
	m.l2Used = true
	return nil
}

// closeSpan writes the L2 table being filled, if it has entries.
func (m *image) closeSpan() error {
	if !m.l2Used {
		return nil
	}
	off, err := m.putTable(m.l2)
	if err != nil {
		return err
	}
	m.l1[m.l2Index] = uint64(off) | entryCopied
	clear(m.l2)
	m.l2Used = false
	return nil
}

// putTable writes a table of offsets to clusters of its own; an empty table
// (the L1 table of an empty disk) takes none.
func (m *image) putTable(table []uint64) (int64, error) {
	clusters := roundUp(int64(len(table))*8, m.clusterSize) / m.clusterSize
	off := m.allocate(clusters)
	return off, m.out.writeAt(encodeTable(table, clusters*m.clusterSize), off)
}

// encodeTable returns a table in the file's byte order, padded to size bytes.
func encodeTable(table []uint64, size int64) []byte {
	p := make([]byte, 0, size)
	for _, entry := range table {
		p = binary.BigEndian.AppendUint64(p, entry)
	}
	return p[:size]
}

// finish writes the tables and, last, the header.
func (m *image) finish() error {
	if err := m.closeSpan(); err != nil {
		return err
	}
	m.packed.release(m)
	l1, err := m.putTable(m.l1)
	if err != nil {
		return err
	}
	table, tableClusters, err := m.putRefcounts()
	if err != nil {
		return err
	}
	if err := m.out.writeAt(m.header(l1, table, tableClusters), 0); err != nil {
		return err
	}
	return m.out.flush()
}

// putRefcounts writes the refcount blocks and the table that lists them. Both
// are counted in the blocks too, so their number is found by iteration.
func (m *image) putRefcounts() (tableOffset, tableClusters int64, err error) {
	perBlock := m.clusterSize / (1 << refcountOrder / 8)
	used := int64(len(m.refcounts))
	blocks := int64(0)
	for {
		tableClusters = max(1, roundUp(blocks*8, m.clusterSize)/m.clusterSize)
		need := roundUp(used+blocks+tableClusters, perBlock) / perBlock
		if need <= blocks {
			break
		}
		blocks = need
	}
	if tableClusters*m.clusterSize > max(maxTableBytes, m.clusterSize) {
		return 0, 0, fmt.Errorf("%d bytes of data are too many for clusters of %d bytes: use larger clusters", used*m.clusterSize, m.clusterSize)
	}
	first := m.allocate(blocks)
	tableOffset = m.allocate(tableClusters)

	table := make([]uint64, blocks)
	block := make([]byte, m.clusterSize)
	for i := range table {
		table[i] = uint64(first + int64(i)*m.clusterSize)
		clear(block)
		from := int64(i) * perBlock
		for j, count := range m.refcounts[from:min(from+perBlock, int64(len(m.refcounts)))] {
			binary.BigEndian.PutUint16(block[2*j:], count)
		}
		if err := m.out.writeAt(block, int64(table[i])); err != nil {
			return 0, 0, err
		}
	}
	return tableOffset, tableClusters, m.out.writeAt(encodeTable(table, tableClusters*m.clusterSize), tableOffset)
}

// header returns the file's first cluster.
func (m *image) header(l1, table, tableClusters int64) []byte {
	p := make([]byte, m.clusterSize)
	be := binary.BigEndian
	be.PutUint32(p[0:], magic)
	be.PutUint32(p[4:], 3)
	be.PutUint32(p[20:], uint32(m.clusterBits))
	be.PutUint64(p[24:], uint64(m.size))
	be.PutUint32(p[36:], uint32(len(m.l1)))
	be.PutUint64(p[40:], uint64(l1))
	be.PutUint64(p[48:], uint64(table))
	be.PutUint32(p[56:], uint32(tableClusters))
	be.PutUint32(p[96:], refcountOrder)
	be.PutUint32(p[100:], headerLength)
	if m.compression == Zstd {
		be.PutUint64(p[72:], incompatZstd)
		p[104] = 1
		// Lets a qemu without zstd name what it lacks.
		be.PutUint32(p[headerLength:], featureTable)
		be.PutUint32(p[headerLength+4:], 48)
		p[headerLength+9] = 3
		copy(p[headerLength+10:headerLength+56], "compression type")
	}
	return p // the zeros that follow are the end of the extensions
}
