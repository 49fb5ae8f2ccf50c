package disk

import (
	"bytes"
	"slices"
	"testing"
)

// TestXattrs packs attributes and reads them back, in a block and in an inode.
func TestXattrs(t *testing.T) {
	all := []xattr{
		{index: 7, name: []byte("selinux"), value: []byte("system_u:object_r:bin_t:s0\x00")},
		{index: 6, name: []byte("capability"), value: []byte(capNetRaw)},
		{index: 1, name: []byte("b"), value: nil},
		{index: 1, name: []byte("aa"), value: []byte("12345")},
	}
	slices.SortFunc(all, compareXattrs)
	var order []string
	for _, x := range all {
		order = append(order, string(x.name))
	}
	if want := []string{"b", "aa", "capability", "selinux"}; !slices.Equal(order, want) {
		t.Errorf("order is %v, want %v", order, want)
	}
	for _, start := range []int{0, xattrBlockHeader} {
		region := make([]byte, start+xattrSize(all))
		packXattrs(region, start, all, start > 0)
		got, err := parseXattrs(region, start)
		must(t, err)
		if !slices.EqualFunc(got, all, func(a, b xattr) bool {
			return a.index == b.index && bytes.Equal(a.name, b.name) && bytes.Equal(a.value, b.value)
		}) {
			t.Errorf("got %v back, want %v", got, all)
		}
	}
}

// TestXattrHash compares with a hash that mke2fs stored.
func TestXattrHash(t *testing.T) {
	x := xattr{index: 1, name: []byte("big"), value: bytes.Repeat([]byte("b"), 2500)}
	if got, want := x.hash(), uint32(0xe7256263); got != want {
		t.Errorf("hash is %#x, want %#x", got, want)
	}
}

// FuzzXattrs feeds what might be attributes to the parser.
func FuzzXattrs(f *testing.F) {
	region := make([]byte, 64)
	packXattrs(region, 0, []xattr{{index: 1, name: []byte("a"), value: []byte("b")}}, false)
	f.Add(region, 0)
	f.Fuzz(func(t *testing.T, region []byte, start int) {
		if start < 0 || start > len(region) {
			return
		}
		all, err := parseXattrs(region, start)
		if err == nil && len(all)*xattrEntry > len(region) {
			t.Errorf("%d attributes in %d bytes", len(all), len(region))
		}
	})
}
