package qcow2

import (
	"encoding/binary"
	"math/bits"
)

// The window of 4 KiB is the reason for an encoder of our own: the libraries
// either look back 32 KiB or, with a small window, offer one fast level whose
// images are 3 to 10 percent larger than qemu-img's. The parse (hash chains,
// lazy evaluation weighing length against distance) is the well-known one of
// zlib and libdeflate.
const (
	deflateWindow = 4 << 10
	maxDistance   = deflateWindow - 1 // the chain ring holds no more
	minMatch      = 3
	maxMatch      = 258
	hash3Bits     = 13
	hash4Bits     = 14
	missesPerSkip = 256
	maxSkip       = 8
)

// effort is what a level means.
type effort struct {
	depth int // candidates tried for a match
	nice  int // a match of this length is taken without looking further
	ahead int // how many bytes ahead a better match is looked for
}

// efforts are the levels 1 to 9.
func efforts() [10]effort {
	return [10]effort{
		1: {2, 16, 0},
		2: {4, 24, 0},
		3: {6, 32, 1},
		4: {12, 32, 1},
		5: {16, 48, 1},
		6: {32, 96, 1},
		7: {64, 130, 1},
		8: {128, 258, 2},
		9: {1024, 258, 2},
	}
}

// deflater compresses clusters to raw deflate streams (RFC 1951) whose matches
// reach back less than 4 KiB. Its memory is reused from cluster to cluster.
type deflater struct {
	effort effort
	finder finder
	tokens []token
	blocks blockWriter
}

func newDeflater(level int) *deflater {
	return &deflater{effort: efforts()[level], finder: finder{base: deflateWindow}, blocks: newBlockWriter()}
}

// compress appends the stream of cluster to dst.
func (d *deflater) compress(dst, cluster []byte) ([]byte, error) {
	d.tokens = d.parse(d.tokens[:0], cluster)
	return d.blocks.write(dst, d.tokens), nil
}

// token is a literal byte, or a match: length<<16 | distance.
type token uint32

func (t token) isMatch() bool { return t >= 1<<16 }

// parse splits src into literals and matches.
func (d *deflater) parse(tokens []token, src []byte) []token {
	f, e := &d.finder, d.effort
	f.start(len(src))
	shortest := shortestMatch(src)
	misses := 0 // bytes since the last match
	for pos := 0; pos < len(src); {
		length, distance := f.find(src, pos, shortest-1, e.depth, e.nice)
		if length < shortest {
			// Where nothing matches for long, only samples are looked at.
			n := min(1+misses/missesPerSkip, maxSkip, len(src)-pos)
			for _, c := range src[pos : pos+n] {
				tokens = append(tokens, token(c))
			}
			pos, misses = pos+n, misses+n
			continue
		}
		misses = 0
		inserted := 1 // positions from pos on that the finder knows
		for length < e.nice {
			moved := false
			for step := 1; step <= e.ahead && pos+step < len(src); step++ {
				l, dist := f.find(src, pos+step, length-1, e.depth>>step, e.nice)
				inserted = step + 1
				// Four bits a byte gained, against the distance's extra bits
				// and the literals that come before.
				if l >= length && 4*(l-length)+bits.Len(uint(distance))-bits.Len(uint(dist)) > 4*step-2 {
					for i := range step {
						tokens = append(tokens, token(src[pos+i]))
					}
					pos, length, distance, inserted = pos+step, l, dist, 1
					moved = true
					break
				}
			}
			if !moved {
				break
			}
		}
		tokens = append(tokens, token(length<<16|distance))
		f.insert(src, pos+inserted, pos+length)
		pos += length
	}
	return tokens
}

// shortestMatch returns the length from which on a match pays: where few
// different bytes are in use, literals are cheap.
func shortestMatch(src []byte) int {
	var seen [256]bool
	for _, c := range src[:min(len(src), 4096)] {
		seen[c] = true
	}
	used := 0
	for _, s := range seen {
		if s {
			used++
		}
	}
	switch {
	case used < 8:
		return 6
	case used < 24:
		return 5
	case used < 80:
		return 4
	}
	return minMatch
}

// finder finds earlier occurrences. Positions are counted on from cluster to
// cluster, with a window between two, so that old entries are out of reach and
// the tables need no clearing.
type finder struct {
	base   int32 // position of the cluster's first byte
	latest [1 << hash3Bits]int32
	heads  [1 << hash4Bits]int32
	chain  [deflateWindow]int32
	length int32
}

// start begins a cluster of n bytes.
func (f *finder) start(n int) {
	f.base += f.length + deflateWindow
	f.length = int32(n)
	if f.base > 1<<30 {
		*f = finder{base: deflateWindow, length: int32(n)}
	}
}

func hash3(v uint32) uint32 { return (v << 8) * 0x9e3779b1 >> (32 - hash3Bits) }
func hash4(v uint32) uint32 { return v * 0x9e3779b1 >> (32 - hash4Bits) }

// find makes pos known and returns the best match there that is longer than
// best; length is best if there is none.
func (f *finder) find(src []byte, pos, best, depth, nice int) (length, distance int) {
	limit := min(len(src)-pos, maxMatch)
	if limit < 4 {
		return best, 0
	}
	here := src[pos : pos+limit]
	v := binary.LittleEndian.Uint32(here)
	h3, h4 := hash3(v), hash4(v)
	at := f.base + int32(pos)
	near, c := f.latest[h3], f.heads[h4]
	f.latest[h3], f.heads[h4] = at, at
	f.chain[at&(deflateWindow-1)] = c
	if best >= limit {
		return best, 0
	}
	oldest := at - maxDistance
	if best < 3 && near >= oldest {
		p := int(near - f.base)
		if (binary.LittleEndian.Uint32(src[p:])^v)<<8 == 0 {
			best, distance = 3, int(at-near)
		}
	}
	for ; c >= oldest && depth > 0; depth-- {
		p := int(c - f.base)
		there := src[p : p+limit]
		if best < len(there) && there[best] == here[best] && binary.LittleEndian.Uint32(there) == v {
			if l := matchLength(here, there); l > best {
				best, distance = l, int(at-c)
				if l >= nice || l == limit {
					break
				}
			}
		}
		c = f.chain[c&(deflateWindow-1)]
	}
	return best, distance
}

// insert makes the positions [from, to) known.
func (f *finder) insert(src []byte, from, to int) {
	to = min(to, len(src)-3)
	for pos := from; pos < to; pos++ {
		v := binary.LittleEndian.Uint32(src[pos:])
		h3, h4 := hash3(v), hash4(v)
		at := f.base + int32(pos)
		f.latest[h3] = at
		f.chain[at&(deflateWindow-1)] = f.heads[h4]
		f.heads[h4] = at
	}
}

// matchLength returns how many bytes a and b, equally long, have in common.
func matchLength(a, b []byte) int {
	b = b[:len(a)]
	n := 0
	for ; n+8 <= len(a); n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}
