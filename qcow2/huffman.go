package qcow2

import (
	"math/bits"
	"slices"
)

// code is a Huffman code: its bits, first one lowest, and their number.
type code struct {
	bits uint32
	n    uint8
}

// coder builds codes from counts. Its memory is reused.
type coder struct {
	sorted []uint32 // count<<9 | symbol
	tree   []uint32
}

// lengths sets lens to the lengths of an optimal prefix code for counts, with
// no length over limit. Symbols that do not occur get 0; a single one gets 1.
// Counts stay below 1<<23.
func (c *coder) lengths(lens []uint8, counts []uint32, limit int) {
	clear(lens)
	c.sorted = c.sorted[:0]
	for symbol, n := range counts {
		if n > 0 {
			c.sorted = append(c.sorted, n<<9|uint32(symbol))
		}
	}
	n := len(c.sorted)
	if n == 0 {
		return
	}
	if n == 1 {
		lens[c.sorted[0]&511] = 1
		return
	}
	slices.Sort(c.sorted)

	// Moffat and Katajainen's in-place calculation: first the parents, then
	// the depths of the inner nodes, then how many leaves each depth has.
	c.tree = c.tree[:0]
	for _, s := range c.sorted {
		c.tree = append(c.tree, s>>9)
	}
	a := c.tree
	root, leaf := 0, 0
	for next := 0; next < n-1; next++ {
		take := func() uint32 {
			if leaf >= n || root < next && a[root] < a[leaf] {
				w := a[root]
				a[root] = uint32(next)
				root++
				return w
			}
			w := a[leaf]
			leaf++
			return w
		}
		w := take()
		a[next] = w + take()
	}
	var perLength [64]int
	a[n-2] = 0
	for next := n - 3; next >= 0; next-- {
		a[next] = a[a[next]] + 1
	}
	available, depth := 1, uint32(0)
	for next := n - 2; available > 0; depth++ {
		inner := 0
		for next >= 0 && a[next] == depth {
			inner++
			next--
		}
		perLength[min(int(depth), limit)] += available - inner
		available = 2 * inner
	}

	// Codes cut to the limit take too much room: lengthen shorter ones until
	// the sum of 2^-length is one again.
	room := 0
	for l := 1; l <= limit; l++ {
		room += perLength[l] << (limit - l)
	}
	for ; room > 1<<limit; room-- {
		l := limit - 1
		for perLength[l] == 0 {
			l--
		}
		perLength[l]--
		perLength[l+1] += 2
		perLength[limit]--
	}

	// The rarest symbols come first and get the longest codes.
	i := 0
	for l := limit; l > 0; l-- {
		for range perLength[l] {
			lens[c.sorted[i]&511] = uint8(l)
			i++
		}
	}
}

// assign sets codes to the canonical codes of the lengths (RFC 1951, 3.2.2).
func assign(codes []code, lens []uint8) {
	var count, next [16]uint16
	for _, l := range lens {
		count[l]++
	}
	first := uint16(0)
	count[0] = 0
	for l := 1; l < 16; l++ {
		first = (first + count[l-1]) << 1
		next[l] = first
	}
	for symbol, l := range lens {
		codes[symbol] = code{}
		if l > 0 {
			codes[symbol] = code{uint32(bits.Reverse16(next[l]) >> (16 - l)), l}
			next[l]++
		}
	}
}
