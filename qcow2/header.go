package qcow2

// codeLengths is how many symbols describe the lengths of codes: 0 to 15
// themselves, 16 repeats the last, 17 and 18 are runs of zero.
const codeLengths = 19

// blockHeader is the head of a block with codes of its own (RFC 1951, 3.2.7).
type blockHeader struct {
	literals  int
	distances int
	symbols   [literals + distances]headerSymbol
	count     int
	lens      [codeLengths]uint8
	sent      int // how many of the lengths in lens are written
	size      int // in bits
}

type headerSymbol struct{ symbol, extra uint8 }

// codeLengthOrder is the order in which lens is written: rarely used last.
func codeLengthOrder() [codeLengths]uint8 {
	return [codeLengths]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
}

// extraBits of a code length symbol.
func extraBits(symbol uint8) uint8 {
	switch symbol {
	case 16:
		return 2
	case 17:
		return 3
	case 18:
		return 7
	}
	return 0
}

// build describes the two codes.
func (h *blockHeader) build(c *coder, literalLens, distanceLens []uint8) {
	h.literals = used(literalLens, 257)
	h.distances = used(distanceLens, 1)
	var all [literals + distances]uint8
	n := copy(all[:], literalLens[:h.literals])
	n += copy(all[n:], distanceLens[:h.distances])

	var counts [codeLengths]uint32
	add := func(symbol uint8, extra int) {
		h.symbols[h.count] = headerSymbol{symbol, uint8(extra)}
		h.count++
		counts[symbol]++
	}
	for i := 0; i < n; {
		length := all[i]
		run := 1
		for i+run < n && all[i+run] == length {
			run++
		}
		i += run
		if length > 0 {
			add(length, 0)
			run--
		}
		for run >= 3 {
			switch {
			case length > 0:
				r := min(run, 6)
				add(16, r-3)
				run -= r
			case run < 11:
				add(17, run-3)
				run = 0
			default:
				r := min(run, 138)
				add(18, r-11)
				run -= r
			}
		}
		for ; run > 0; run-- {
			add(length, 0)
		}
	}
	c.lengths(h.lens[:], counts[:], 7)

	order := codeLengthOrder()
	h.sent = codeLengths
	for h.sent > 4 && h.lens[order[h.sent-1]] == 0 {
		h.sent--
	}
	h.size = 14 + 3*h.sent
	for symbol, n := range counts {
		h.size += int(n) * int(h.lens[symbol]+extraBits(uint8(symbol)))
	}
}

// used returns how many lengths are left without the zeros at the end.
func used(lens []uint8, least int) int {
	n := len(lens)
	for n > least && lens[n-1] == 0 {
		n--
	}
	return n
}

// write writes the head, behind the block's type.
func (h *blockHeader) write(out *bitWriter) {
	out.put(uint64(h.literals-257), 5)
	out.put(uint64(h.distances-1), 5)
	out.put(uint64(h.sent-4), 4)
	order := codeLengthOrder()
	for _, symbol := range order[:h.sent] {
		out.put(uint64(h.lens[symbol]), 3)
	}
	var codes [codeLengths]code
	assign(codes[:], h.lens[:])
	for _, s := range h.symbols[:h.count] {
		c := codes[s.symbol]
		out.put(uint64(c.bits)|uint64(s.extra)<<c.n, uint(c.n+extraBits(s.symbol)))
	}
}
