package unxz

// Sizes and limits of LZMA (lzma-specification.txt of the LZMA SDK).
const (
	states       = 12
	posStatesMax = 1 << 4
	literalSize  = 0x300
	probInit     = 1 << 10
	probBits     = 11
	probMove     = 5
	topValue     = 1 << 24
	minMatch     = 2
	endSlot      = 14
	fullDists    = 1 << (endSlot / 2)
	alignBits    = 4
	// symbolInput bounds the input bytes of one symbol; input buffers are
	// padded with as many, so that the end is checked once a symbol.
	symbolInput = 32
)

// lengthCoder holds the probabilities of match lengths.
type lengthCoder struct {
	choice  uint16
	choice2 uint16
	low     [posStatesMax][8]uint16
	mid     [posStatesMax][8]uint16
	high    [256]uint16
}

// lzma is the state that LZMA keeps between chunks.
type lzma struct {
	out  []byte
	n    int // bytes of out that are written
	base int // start of the dictionary in out

	in  []byte
	pos int
	rng uint32
	cod uint32

	state uint32
	rep   [4]uint32
	lc    uint32
	lpMsk uint32
	pbMsk uint32

	isMatch    [states][posStatesMax]uint16
	isRep      [states]uint16
	isRepG0    [states]uint16
	isRepG1    [states]uint16
	isRepG2    [states]uint16
	isRep0Long [states][posStatesMax]uint16
	posSlot    [4][64]uint16
	posSpecial [fullDists - endSlot + 1]uint16
	posAlign   [1 << alignBits]uint16
	matchLen   lengthCoder
	repLen     lengthCoder
	literal    [literalSize << 4]uint16
}

func fill(p []uint16) {
	for i := range p {
		p[i] = probInit
	}
}

func (c *lengthCoder) reset() {
	c.choice, c.choice2 = probInit, probInit
	for i := range c.low {
		fill(c.low[i][:])
		fill(c.mid[i][:])
	}
	fill(c.high[:])
}

// resetState makes the state and all probabilities those of a new stream.
func (d *lzma) resetState() {
	d.state = 0
	d.rep = [4]uint32{}
	for i := range d.isMatch {
		fill(d.isMatch[i][:])
		fill(d.isRep0Long[i][:])
	}
	fill(d.isRep[:])
	fill(d.isRepG0[:])
	fill(d.isRepG1[:])
	fill(d.isRepG2[:])
	for i := range d.posSlot {
		fill(d.posSlot[i][:])
	}
	fill(d.posSpecial[:])
	fill(d.posAlign[:])
	d.matchLen.reset()
	d.repLen.reset()
	fill(d.literal[:])
}

// setProps takes the properties byte of a chunk; false if it is out of range.
func (d *lzma) setProps(b byte) bool {
	if b >= 9*5*5 {
		return false
	}
	lc, lp, pb := uint32(b)%9, uint32(b)/9%5, uint32(b)/45
	if lc+lp > 4 {
		return false // LZMA2's limit
	}
	d.lc, d.lpMsk, d.pbMsk = lc, 1<<lp-1, 1<<pb-1
	return true
}

// bit decodes one bit with the probability p.
func (d *lzma) bit(p *uint16) uint32 {
	if d.rng < topValue {
		d.rng <<= 8
		d.cod = d.cod<<8 | uint32(d.in[d.pos])
		d.pos++
	}
	bound := (d.rng >> probBits) * uint32(*p)
	if d.cod < bound {
		d.rng = bound
		*p += (1<<probBits - *p) >> probMove
		return 0
	}
	d.rng -= bound
	d.cod -= bound
	*p -= *p >> probMove
	return 1
}

// tree decodes an n-bit number, most significant bit first.
func (d *lzma) tree(p []uint16, n int) uint32 {
	rng, cod, in, pos := d.rng, d.cod, d.in, d.pos
	p = p[:1<<n]
	m := uint32(1)
	for range n {
		if rng < topValue {
			rng <<= 8
			cod = cod<<8 | uint32(in[pos])
			pos++
		}
		prob := uint32(p[m&(uint32(len(p))-1)])
		bound := (rng >> probBits) * prob
		if cod < bound {
			rng = bound
			p[m&(uint32(len(p))-1)] = uint16(prob + (1<<probBits-prob)>>probMove)
			m <<= 1
		} else {
			rng -= bound
			cod -= bound
			p[m&(uint32(len(p))-1)] = uint16(prob - prob>>probMove)
			m = m<<1 | 1
		}
	}
	d.rng, d.cod, d.pos = rng, cod, pos
	return m - 1<<n
}

// reverse decodes an n-bit number, least significant bit first.
func (d *lzma) reverse(p []uint16, n int) uint32 {
	m, v := uint32(1), uint32(0)
	for i := range n {
		b := d.bit(&p[m])
		m = m<<1 | b
		v |= b << i
	}
	return v
}

// direct decodes n bits of equal probability.
func (d *lzma) direct(n int) uint32 {
	v := uint32(0)
	for range n {
		if d.rng < topValue {
			d.rng <<= 8
			d.cod = d.cod<<8 | uint32(d.in[d.pos])
			d.pos++
		}
		d.rng >>= 1
		d.cod -= d.rng
		t := 0 - d.cod>>31
		d.cod += d.rng & t
		v = v<<1 + t + 1
	}
	return v
}

func (d *lzma) length(c *lengthCoder, posState uint32) int {
	if d.bit(&c.choice) == 0 {
		return minMatch + int(d.tree(c.low[posState&15][:], 3))
	}
	if d.bit(&c.choice2) == 0 {
		return minMatch + 8 + int(d.tree(c.mid[posState&15][:], 3))
	}
	return minMatch + 16 + int(d.tree(c.high[:], 8))
}

// distance decodes the distance, less one, of a match of that length.
func (d *lzma) distance(length int) uint32 {
	slot := d.tree(d.posSlot[min(length-minMatch, 3)][:], 6)
	if slot < 4 {
		return slot
	}
	n := int(slot>>1) - 1
	dist := (2 | slot&1) << n
	if slot < endSlot {
		// The trees of these slots lie one after the other.
		return dist + d.reverse(d.posSpecial[dist-slot:], n)
	}
	dist += d.direct(n-alignBits) << alignBits
	return dist + d.reverse(d.posAlign[:], alignBits)
}

// symbols decodes until n has reached limit; the chunk's input ends at end. It
// returns false if the data is corrupt.
func (d *lzma) symbols(limit, end int) bool {
	for d.n < limit {
		if d.pos > end {
			return false
		}
		posState := uint32(d.n-d.base) & d.pbMsk & 15
		if d.bit(&d.isMatch[d.state][posState]) == 0 {
			d.literalByte()
			continue
		}
		length := 1
		if d.bit(&d.isRep[d.state]) == 0 {
			length = d.length(&d.matchLen, posState)
			dist := d.distance(length)
			d.rep = [4]uint32{dist, d.rep[0], d.rep[1], d.rep[2]}
			d.setState(7, 10)
		} else {
			long := true
			if d.bit(&d.isRepG0[d.state]) == 0 {
				long = d.bit(&d.isRep0Long[d.state][posState]) == 1
			} else if d.bit(&d.isRepG1[d.state]) == 0 {
				d.rep[0], d.rep[1] = d.rep[1], d.rep[0]
			} else if d.bit(&d.isRepG2[d.state]) == 0 {
				d.rep = [4]uint32{d.rep[2], d.rep[0], d.rep[1], d.rep[3]}
			} else {
				d.rep = [4]uint32{d.rep[3], d.rep[0], d.rep[1], d.rep[2]}
			}
			if long {
				length = d.length(&d.repLen, posState)
				d.setState(8, 11)
			} else {
				d.setState(9, 11)
			}
		}
		dist := int(d.rep[0]) + 1
		if dist <= 0 || dist > d.n-d.base || length > limit-d.n {
			return false
		}
		d.repeat(dist, length)
	}
	return true
}

func (d *lzma) setState(afterLiteral, afterMatch uint32) {
	if d.state < 7 {
		d.state = afterLiteral
	} else {
		d.state = afterMatch
	}
}

// repeat appends length bytes from dist bytes back; they may overlap.
func (d *lzma) repeat(dist, length int) {
	dst := d.out[d.n : d.n+length]
	src := d.out[d.n-dist:]
	d.n += length
	for {
		k := copy(dst, src[:min(dist, len(src))])
		if k == len(dst) {
			return
		}
		dst = dst[k:]
		dist += k
	}
}

// literalByte decodes one literal. It holds the range coder in locals, because
// most of the time is spent here.
func (d *lzma) literalByte() {
	prev := uint32(0)
	if d.n > d.base {
		prev = uint32(d.out[d.n-1])
	}
	ctx := (uint32(d.n-d.base)&d.lpMsk)<<d.lc + prev>>(8-d.lc)
	p := (*[literalSize]uint16)(d.literal[ctx*literalSize:])
	rng, cod, in, pos := d.rng, d.cod, d.in, d.pos
	sym := uint32(1)
	if d.state >= 7 && int(d.rep[0]) < d.n-d.base {
		// After a match the byte at its distance is the wrong guess.
		match := uint32(d.out[d.n-int(d.rep[0])-1])
		offs := uint32(0x100)
		for sym < 0x100 {
			if rng < topValue {
				rng <<= 8
				cod = cod<<8 | uint32(in[pos])
				pos++
			}
			match <<= 1
			guess := match & offs
			prob := &p[offs+guess+sym]
			v := uint32(*prob)
			bound := (rng >> probBits) * v
			if cod < bound {
				rng = bound
				*prob = uint16(v + (1<<probBits-v)>>probMove)
				sym <<= 1
				offs &^= guess
			} else {
				rng -= bound
				cod -= bound
				*prob = uint16(v - v>>probMove)
				sym = sym<<1 | 1
				offs = guess
			}
		}
	} else {
		for sym < 0x100 {
			if rng < topValue {
				rng <<= 8
				cod = cod<<8 | uint32(in[pos])
				pos++
			}
			prob := &p[sym]
			v := uint32(*prob)
			bound := (rng >> probBits) * v
			if cod < bound {
				rng = bound
				*prob = uint16(v + (1<<probBits-v)>>probMove)
				sym <<= 1
			} else {
				rng -= bound
				cod -= bound
				*prob = uint16(v - v>>probMove)
				sym = sym<<1 | 1
			}
		}
	}
	d.rng, d.cod, d.pos = rng, cod, pos
	d.out[d.n] = byte(sym)
	d.n++
	d.state = nextLiteral[d.state]
}

// nextLiteral is the state after a literal.
var nextLiteral = [states]uint32{0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5}
