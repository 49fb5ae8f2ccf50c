package mounter

import (
	"errors"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/ossify/ossify/lease/confine"
	"github.com/ossify/ossify/lease/wire"
)

func TestSpans(t *testing.T) {
	for text, want := range map[string][]span{
		"": nil,
		"alice:100000:65536\n1001:200000:65536\n":                                      {{100000, 65536}, {200000, 65536}},
		"alice:100000\n:1:2\n# x:1:2\nalice:-1:5\nalice:x:y\nalice:1:0\nalice:1:2:3\n": nil,
		"alice:0:65536\nalice:4294967290:10\nalice:1:4294967296\n":                     nil,
		"alice:1879113728:10\nalice:1879100000:65536\nbob:5:1":                         {{5, 1}},
	} {
		if got := spans(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// spans are those of a file.
func spans(text string) (out []span) {
	for line := range strings.Lines(text) {
		if _, s, ok := parseSpan(line); ok {
			out = append(out, s)
		}
	}
	return out
}

func FuzzSpans(f *testing.F) {
	f.Add("alice:100000:65536\n1001:200000:65536\n")
	f.Add("alice:4294967295:1\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range spans(text) {
			last := uint64(s.first) + uint64(s.count) - 1
			if s.count == 0 || s.has(0, 1) || last >= 1<<32-1 || s.has(confine.MkfsID, 1) || s.has(confine.BrokerID, 1) {
				t.Errorf("%q has %v", text, s)
			}
		}
	})
}

func TestCheckRanges(t *testing.T) {
	mine := []span{{1000, 1}, {100000, 65536}}
	for _, c := range []struct {
		r  wire.Range
		ok bool
	}{
		{wire.Range{Disk: 0, Host: 1000, Count: 1}, true},
		{wire.Range{Disk: 1, Host: 100000, Count: 65536}, true},
		{wire.Range{Disk: 1, Host: 165535, Count: 1}, true},
		{wire.Range{Disk: 0, Host: 0, Count: 1}, false},
		{wire.Range{Disk: 0, Host: 999, Count: 2}, false},
		{wire.Range{Disk: 0, Host: 1000, Count: 2}, false},
		{wire.Range{Disk: 1, Host: 100000, Count: 65537}, false},
		{wire.Range{Disk: 1, Host: 165535, Count: 1<<32 - 1}, false},
	} {
		if err := checkRanges("user", []wire.Range{c.r}, mine); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.r, err)
		}
	}
}

func TestCheckSandbox(t *testing.T) {
	c := &caller{"alice", 1000, []span{{1000, 1}, {100000, 65536}}, nil}
	for _, k := range []struct{ status, ids, err string }{
		{"Name:\tx\nNSpid:\t12\nNSsid:\t1\n", "         0          0 4294967295\n", ""},
		{"Name:\tx\nNSpid:\t12\n", "0 1000 1\n1 100000 65536\n", ""},
		{"Name:\tx\nNSpid:\t12\n", "0 0 1\n", "somebody else"},
		{"Name:\tx\nNSpid:\t12\n", "0 0 4294967295\n1 2000 1\n", "somebody else"},
		{"Name:\tx\nNSpid:\t12\n", "0 1000 2\n", "somebody else"},
		{"Name:\tx\nNSpid:\t12\n", "", "somebody else"},
		{"Name:\tx\nNSpid:\t12\n", "x\n", "somebody else"},
		{"Name:\tx\nNSpid:\t12\t1\n", "0 1000 1\n", "in a container"},
		{"Name:\tNSpid: 1\nNSpid:\t12\t1\n", "0 1000 1\n", "in a container"},
		{"", "0 1000 1\n", "in a container"},
	} {
		err := checkSandbox(c, k.status, k.ids)
		if (err == nil) != (k.err == "") || err != nil && (!errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), k.err)) {
			t.Errorf("%+v: %v", k, err)
		}
	}
}

// FuzzMkfs looks at the arguments that a request becomes: a label is never an option,
// and nothing else is the client's text.
func FuzzMkfs(f *testing.F) {
	f.Add(uint8(1), uint16(3), uint16(1), uint32(0), []byte{1}, "root", uint32(512))
	f.Add(uint8(2), uint16(0), uint16(0), uint32(4), []byte{1}, "-O", uint32(4096))
	f.Add(uint8(3), uint16(16), uint16(16), uint32(0), []byte{1}, "a,b", uint32(512))
	f.Fuzz(func(t *testing.T, kind uint8, set, on uint16, groups uint32, uuid []byte, label string, sector uint32) {
		r := &wire.Mkfs{Type: wire.Filesystem(kind), Set: wire.Options(set), On: wire.Options(on), Groups: groups}
		copy(r.UUID[:], uuid)
		copy(r.Label[:], label)
		decoded, err := wire.Decode(wire.Encode(r), 0)
		if err != nil {
			return
		}
		args := mkfsArgs(decoded.(*wire.Mkfs), sector)
		for i, a := range args {
			if strings.ContainsAny(a, "\x00\n") || a == "" {
				t.Errorf("argument %q", a)
			}
			if a != label || i > 0 && args[i-1] == "-L" {
				continue
			}
			// A label such as "dup" is another argument too.
			if strings.HasPrefix(a, "-") {
				t.Errorf("the label %q is an option: %q", label, args)
			}
		}
		if label != "" && strings.TrimRight(label, "\x00") != "" && len(label) <= 255 && args[len(args)-2] != "-L" {
			t.Errorf("the label %q is not in %q", label, args)
		}
	})
}
