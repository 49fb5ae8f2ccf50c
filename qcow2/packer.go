package qcow2

// maxGaps bounds how many started clusters are kept open for more data.
const maxGaps = 16

// packer finds room for compressed clusters, byte by byte. A piece may cross
// from one host cluster into the next, as long as both are neighbours. Where
// clusters of other use got in between, the rest of a started cluster is a gap,
// which smaller pieces fill later.
//
// An open cluster holds one extra refcount, which allocate gave it; it is taken
// back when the cluster is closed, leaving one count per piece.
type packer struct {
	gaps []gap
}

// gap is room for compressed data, from off up to its cluster's end.
type gap struct{ off, end int64 }

// place returns where n bytes go.
func (p *packer) place(m *image, n int64) int64 {
	fileEnd := int64(len(m.refcounts)) * m.clusterSize
	for i := range p.gaps {
		g := &p.gaps[i]
		if g.end-g.off < n && g.end != fileEnd {
			continue
		}
		off := g.off
		for g.end-off < n { // the gap is at the file's end: it grows
			m.close(g.end - m.clusterSize)
			g.end = m.allocate(1) + m.clusterSize
		}
		g.off = off + n
		if g.off == g.end {
			m.close(g.end - m.clusterSize)
			p.gaps = append(p.gaps[:i], p.gaps[i+1:]...)
		}
		return off
	}
	if len(p.gaps) == maxGaps {
		p.dropSmallest(m)
	}
	off := m.allocate(1)
	p.gaps = append(p.gaps, gap{off + n, off + m.clusterSize})
	return off
}

// dropSmallest gives up the gap that is the least use.
func (p *packer) dropSmallest(m *image) {
	least := 0
	for i, g := range p.gaps {
		if g.end-g.off < p.gaps[least].end-p.gaps[least].off {
			least = i
		}
	}
	m.close(p.gaps[least].end - m.clusterSize)
	p.gaps = append(p.gaps[:least], p.gaps[least+1:]...)
}

// release gives up all gaps.
func (p *packer) release(m *image) {
	for _, g := range p.gaps {
		m.close(g.end - m.clusterSize)
	}
	p.gaps = nil
}

// close takes back the extra refcount of an open cluster at off.
func (m *image) close(off int64) {
	m.refcounts[off/m.clusterSize]--
}
