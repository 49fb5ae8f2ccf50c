package qcow2

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"testing"
)

// checkStream inflates what a deflater makes of data and looks at the window.
func checkStream(t *testing.T, d *deflater, data []byte) {
	t.Helper()
	pos := 0
	for _, token := range d.parse(nil, data) {
		if !token.isMatch() {
			pos++
			continue
		}
		length, distance := int(token>>16), int(token&0xffff)
		if length < minMatch || length > maxMatch || distance < 1 || distance > maxDistance || distance > pos {
			t.Fatalf("at %d: match of %d bytes %d back", pos, length, distance)
		}
		pos += length
	}
	stream, err := d.compress([]byte("before"), data)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(stream, []byte("before")) {
		t.Fatal("compress does not append")
	}
	in := bytes.NewReader(stream[len("before"):])
	got, err := io.ReadAll(flate.NewReader(in))
	if err != nil {
		t.Fatalf("%d bytes: %v", len(data), err)
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("%d bytes come back as %d others", len(data), len(got))
	}
	if in.Len() != 0 {
		t.Fatalf("%d bytes behind the end of the stream", in.Len())
	}
}

func samples() map[string][]byte {
	far := append(noise(1, deflateWindow+10), noise(1, deflateWindow+10)...)
	edge := append(noise(1, maxDistance), noise(1, maxDistance)...)
	// Counts like Fibonacci's numbers make the longest codes.
	var skewed []byte
	for a, b, c := 1, 1, byte(0); a < 100000; a, b, c = b, a+b, c+1 {
		skewed = append(skewed, bytes.Repeat([]byte{c}, a)...)
	}
	shuffled := bytes.Clone(skewed)
	for i, r := range noise(2, len(shuffled)) {
		j := (i*7919 + int(r)) % len(shuffled)
		shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
	}
	return map[string][]byte{
		"one byte": {0}, "two bytes": {1, 1}, "three": {1, 1, 1}, "four": {1, 1, 1, 1}, "short": []byte("abcabcabcabc"),
		"zeros": make([]byte, 65536), "noise": noise(3, 65536), "prose": prose(65536), "octal": octal(65536),
		"far": far, "edge": edge, "skewed": skewed, "shuffled": shuffled,
		"change": append(append(noise(4, 30000), prose(40000)...), octal(30000)...),
		"large":  append(prose(1<<20), noise(5, 1<<20)...),
	}
}

func TestDeflate(t *testing.T) {
	for level := 1; level <= 9; level++ {
		d := newDeflater(level)
		for name, data := range samples() {
			t.Run(fmt.Sprintf("%s-%d", name, level), func(t *testing.T) { checkStream(t, d, data) })
		}
	}
}

// Old positions stay out of reach when the counter starts anew.
func TestDeflateCounterWraps(t *testing.T) {
	d := newDeflater(6)
	for _, base := range []int32{1<<30 - 140000, 1<<30 - 70000, 1<<30 - 1, 1 << 30} {
		d.finder.base = base
		for range 4 {
			checkStream(t, d, prose(65536))
		}
	}
}

// A stream does not depend on what the deflater did before.
func TestDeflateKeepsNothing(t *testing.T) {
	used := newDeflater(6)
	for range 2 {
		for name, data := range samples() {
			a, _ := used.compress(nil, data)
			b, _ := newDeflater(6).compress(nil, data)
			if !bytes.Equal(a, b) {
				t.Errorf("%s: a used and a new deflater differ", name)
			}
		}
	}
}

func TestCodeLengths(t *testing.T) {
	fibonacci := []uint32{1, 1}
	for len(fibonacci) < 30 {
		n := len(fibonacci)
		fibonacci = append(fibonacci, fibonacci[n-1]+fibonacci[n-2])
	}
	for _, tc := range []struct {
		counts []uint32
		limit  int
		want   []uint8 // nil: only check that the code is complete
	}{
		{[]uint32{0, 0}, 15, []uint8{0, 0}},
		{[]uint32{0, 5}, 15, []uint8{0, 1}},
		{[]uint32{3, 5}, 15, []uint8{1, 1}},
		{[]uint32{1, 1, 2, 4}, 15, []uint8{3, 3, 2, 1}},
		{[]uint32{1, 1, 2, 4, 0, 8}, 3, nil},
		{fibonacci, 15, nil},
		{fibonacci[:19], 7, nil},
		{bytesToCounts(noise(1, literals)), 15, nil},
	} {
		var c coder
		lens := make([]uint8, len(tc.counts))
		c.lengths(lens, tc.counts, tc.limit)
		if tc.want != nil {
			if !bytes.Equal(lens, tc.want) {
				t.Errorf("%v: got %v, want %v", tc.counts, lens, tc.want)
			}
			continue
		}
		room := 0
		for symbol, l := range lens {
			if (l > 0) != (tc.counts[symbol] > 0) || int(l) > tc.limit {
				t.Errorf("%v: length %d for count %d", tc.counts, l, tc.counts[symbol])
			}
			if l > 0 {
				room += 1 << (tc.limit - int(l))
			}
		}
		if room != 1<<tc.limit {
			t.Errorf("%v: lengths %v make no complete code", tc.counts, lens)
		}
	}
}

func bytesToCounts(p []byte) []uint32 {
	counts := make([]uint32, len(p))
	for i, c := range p {
		counts[i] = uint32(c)
	}
	return counts
}

func FuzzDeflate(f *testing.F) {
	for _, data := range samples() {
		f.Add(data[:min(len(data), 4096)], uint8(6))
	}
	f.Fuzz(func(t *testing.T, data []byte, level uint8) {
		if len(data) == 0 {
			return // a cluster is never empty
		}
		checkStream(t, newDeflater(1+int(level)%9), data)
	})
}
