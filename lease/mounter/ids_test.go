package mounter

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/ossify/ossify/lease/confine"
	"github.com/ossify/ossify/lease/wire"
)

func TestParseSpans(t *testing.T) {
	for text, want := range map[string][]span{
		"": nil,
		"alice:100000:65536\n1001:200000:65536\n":                                      {{"alice", 100000, 65536}, {"1001", 200000, 65536}},
		"alice:100000\n:1:2\n# x:1:2\nalice:-1:5\nalice:x:y\nalice:1:0\nalice:1:2:3\n": nil,
		"alice:0:65536\nalice:4294967290:10\nalice:1:4294967296\n":                     nil,
		"alice:1879113728:10\nalice:1879100000:65536\nbob:5:1":                         {{"bob", 5, 1}},
	} {
		got, err := parseSpans(strings.NewReader(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
}

func FuzzSpans(f *testing.F) {
	f.Add("alice:100000:65536\n1001:200000:65536\n")
	f.Add("alice:4294967295:1\n")
	f.Fuzz(func(t *testing.T, text string) {
		spans, _ := parseSpans(strings.NewReader(text))
		for _, s := range spans {
			last := uint64(s.first) + uint64(s.count) - 1
			if s.owner == "" || s.count == 0 || s.has(0, 1) || last >= 1<<32-1 || s.has(confine.MkfsID, 1) || s.has(confine.BrokerID, 1) {
				t.Errorf("%q has %v", text, s)
			}
		}
	})
}

func TestIdentify(t *testing.T) {
	etc := t.TempDir()
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/:\nalice:x:1000:1000::/:\nbob:x:1001:61::/:\ncarol:x:1002:1002::/:\ndave:x:1003:0::/:\nsub:x:100005:5::/:\nbroken\n+::\n",
		"group":  "root:x:0:\nossify:x:61:alice,dave,sub\nother:x:62:carol\n",
		"subuid": "alice:100000:65536\n1001:200000:65536\n",
		"subgid": "alice:300000:65536\n",
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		uid  uint32
		want *caller
		err  string
	}{
		{0, &caller{name: "root"}, ""},
		{1000, &caller{"alice", 1000, []span{{"alice", 1000, 1}, {"alice", 100000, 65536}}, []span{{"alice", 1000, 1}, {"alice", 300000, 65536}}}, ""},
		{1001, &caller{"bob", 1001, []span{{"bob", 1001, 1}, {"1001", 200000, 65536}}, []span{{"bob", 61, 1}}}, ""}, // by their first group
		{1002, nil, "user carol is not in the group ossify"},
		{1003, nil, "user dave has the group id 0"},
		{1004, nil, "user id 1004 is nobody's"},
		{100005, nil, "user id 100005 is a subordinate one of alice"},
		{100006, nil, "is nobody's"},
	} {
		got, err := identify(etc, "ossify", c.uid)
		switch {
		case c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)):
			t.Errorf("%d: got %v, %v", c.uid, got, err)
		case c.err != "" && (!errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%d: got error %v, want %q", c.uid, err, c.err)
		}
	}
	if _, err := identify(t.TempDir(), "ossify", 1000); err == nil {
		t.Error("users are known without a passwd")
	}
}

func TestCheckRanges(t *testing.T) {
	mine := []span{{"alice", 1000, 1}, {"alice", 100000, 65536}}
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
		_, decoded, err := wire.Decode(wire.Encode(1, r), 0)
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
