package qcow2

import (
	"encoding/binary"
	"math"
	"math/bits"
)

const (
	literals     = 286 // literal bytes, end of block, lengths
	distances    = 30
	endOfBlock   = 256
	segmentSize  = 2048 // tokens that are never split
	logTableSize = 4096
)

// histogram counts the symbols of some tokens.
type histogram struct {
	literal  [literals]uint32
	distance [distances]uint32
	extra    uint32 // extra bits of lengths and distances
}

// blockWriter turns tokens into the blocks of a deflate stream. It starts a
// new block where the statistics of the tokens change enough to pay for it.
type blockWriter struct {
	coder      coder
	lengthSym  [maxMatch + 1]uint16 // symbol of a match length
	lengthBase [literals]uint16     // first length of a symbol
	lengthBits [literals]uint8      // its extra bits
	logs       []float32            // n*log2(n)
	out        bitWriter

	current, next, both histogram
	literalLens         [literals]uint8
	distanceLens        [distances]uint8
	literalCodes        [literals]code
	distanceCodes       [distances]code
	lengthCodes         [maxMatch + 1]code // with extra bits
}

func newBlockWriter() blockWriter {
	var w blockWriter
	length := minMatch
	for i := range 28 { // RFC 1951, 3.2.5; the 29th is 258 alone
		symbol := 257 + i
		if i >= 8 {
			w.lengthBits[symbol] = uint8(i/4 - 1)
		}
		w.lengthBase[symbol] = uint16(length)
		for range 1 << w.lengthBits[symbol] {
			w.lengthSym[length] = uint16(symbol)
			length++
		}
	}
	w.lengthBase[285], w.lengthSym[maxMatch] = maxMatch, 285
	w.logs = make([]float32, logTableSize)
	for n := 1; n < logTableSize; n++ {
		w.logs[n] = float32(float64(n) * math.Log2(float64(n)))
	}
	return w
}

// distanceSymbol returns the symbol of a distance and its extra bits.
func distanceSymbol(distance int) (symbol, extra int) {
	d := uint(distance - 1)
	if d < 2 {
		return int(d), 0
	}
	n := bits.Len(d) - 1
	return 2*n + int(d>>(n-1)&1), n - 1
}

// write appends to dst the whole stream of tokens.
func (w *blockWriter) write(dst []byte, tokens []token) []byte {
	w.out = bitWriter{p: dst}
	from, to := 0, min(segmentSize, len(tokens))
	w.count(&w.current, tokens[:to])
	for to < len(tokens) {
		end := min(to+segmentSize, len(tokens))
		w.count(&w.next, tokens[to:end])
		w.both = w.current
		w.both.add(&w.next)
		if w.cost(&w.both) > w.cost(&w.current)+w.cost(&w.next) {
			w.block(tokens[from:to], &w.current, false)
			from = to
			w.current = w.next
		} else {
			w.current = w.both
		}
		to = end
	}
	w.block(tokens[from:], &w.current, true)
	return w.out.finish()
}

func (w *blockWriter) count(h *histogram, tokens []token) {
	*h = histogram{}
	for _, t := range tokens {
		if !t.isMatch() {
			h.literal[t]++
			continue
		}
		symbol := w.lengthSym[t>>16]
		d, extra := distanceSymbol(int(t & 0xffff))
		h.literal[symbol]++
		h.distance[d]++
		h.extra += uint32(w.lengthBits[symbol]) + uint32(extra)
	}
}

func (h *histogram) add(other *histogram) {
	for i, n := range other.literal {
		h.literal[i] += n
	}
	for i, n := range other.distance {
		h.distance[i] += n
	}
	h.extra += other.extra
}

// cost estimates the size of a block in bits: the entropy of its symbols and
// what its header says about each.
func (w *blockWriter) cost(h *histogram) float32 {
	const header, perSymbol = 120, 3
	literal := w.entropy(h.literal[:], perSymbol)
	return header + literal + w.entropy(h.distance[:], perSymbol)
}

func (w *blockWriter) entropy(counts []uint32, perSymbol float32) float32 {
	total, sum := uint32(0), float32(0)
	for _, n := range counts {
		if n > 0 {
			total += n
			sum += perSymbol - w.log(n)
		}
	}
	return sum + w.log(total)
}

// log returns n*log2(n).
func (w *blockWriter) log(n uint32) float32 {
	if n < logTableSize {
		return w.logs[n]
	}
	return float32(float64(n) * math.Log2(float64(n)))
}

// block writes one block in the shorter of the two Huffman forms.
func (w *blockWriter) block(tokens []token, h *histogram, last bool) {
	h.literal[endOfBlock] = 1
	w.coder.lengths(w.literalLens[:], h.literal[:], 15)
	w.coder.lengths(w.distanceLens[:], h.distance[:], 15)
	var head blockHeader
	head.build(&w.coder, w.literalLens[:], w.distanceLens[:])

	dynamic, fixed := head.size, 0
	for symbol, n := range h.literal {
		dynamic += int(n) * int(w.literalLens[symbol])
		fixed += int(n) * int(fixedLength(symbol))
	}
	for symbol, n := range h.distance {
		dynamic += int(n) * int(w.distanceLens[symbol])
		fixed += int(n) * 5
	}

	final := uint64(0)
	if last {
		final = 1
	}
	if fixed <= dynamic {
		w.out.put(final|1<<1, 3)
		// The two symbols that never occur count when codes are assigned.
		var lens [288]uint8
		var codes [288]code
		for symbol := range lens {
			lens[symbol] = fixedLength(symbol)
		}
		assign(codes[:], lens[:])
		copy(w.literalCodes[:], codes[:])
		for symbol := range w.distanceCodes {
			w.distanceCodes[symbol] = code{uint32(bits.Reverse8(uint8(symbol)) >> 3), 5}
		}
	} else {
		w.out.put(final|2<<1, 3)
		head.write(&w.out)
		assign(w.literalCodes[:], w.literalLens[:])
		assign(w.distanceCodes[:], w.distanceLens[:])
	}
	w.body(tokens)
}

// fixedLength is the length of a symbol in the fixed code (RFC 1951, 3.2.6).
func fixedLength(symbol int) uint8 {
	switch {
	case symbol < 144:
		return 8
	case symbol < 256:
		return 9
	case symbol < 280:
		return 7
	}
	return 8
}

// body writes the tokens and the end of the block.
func (w *blockWriter) body(tokens []token) {
	for length := minMatch; length <= maxMatch; length++ {
		symbol := w.lengthSym[length]
		c := w.literalCodes[symbol]
		extra := uint32(length) - uint32(w.lengthBase[symbol])
		w.lengthCodes[length] = code{c.bits | extra<<c.n, c.n + w.lengthBits[symbol]}
	}
	for _, t := range tokens {
		if !t.isMatch() {
			c := w.literalCodes[t]
			w.out.put(uint64(c.bits), uint(c.n))
			continue
		}
		c := w.lengthCodes[t>>16]
		distance := int(t & 0xffff)
		symbol, extra := distanceSymbol(distance)
		d := w.distanceCodes[symbol]
		low := uint64(distance-1) & (1<<extra - 1)
		// At most 15+5+15+10 bits.
		w.out.put(uint64(c.bits)|uint64(d.bits)<<c.n|low<<(c.n+d.n), uint(c.n)+uint(d.n)+uint(extra))
	}
	end := w.literalCodes[endOfBlock]
	w.out.put(uint64(end.bits), uint(end.n))
}

// bitWriter appends bits to p, the first one lowest.
type bitWriter struct {
	p    []byte
	bits uint64
	n    uint
}

// put appends the n lowest bits of v, at most 48; its other bits are zero.
func (b *bitWriter) put(v uint64, n uint) {
	if b.n+n > 64 {
		b.p = binary.LittleEndian.AppendUint64(b.p, b.bits|v<<b.n)
		b.bits = v >> (64 - b.n)
		b.n = b.n + n - 64
		return
	}
	b.bits |= v << b.n
	b.n += n
}

// finish pads to a byte and returns everything.
func (b *bitWriter) finish() []byte {
	for ; b.n > 0; b.n -= min(b.n, 8) {
		b.p = append(b.p, byte(b.bits))
		b.bits >>= 8
	}
	return b.p
}
