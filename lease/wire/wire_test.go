package wire

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func mkfs(change func(*Mkfs)) *Mkfs {
	m := &Mkfs{Type: Ext4, UUID: [16]byte{1}}
	if change != nil {
		change(m)
	}
	return m
}

func mount(change func(*Mount)) *Mount {
	m := &Mount{}
	m.UIDs[0] = Range{0, 1000, 1}
	m.GIDs[0] = Range{0, 1000, 1}
	if change != nil {
		change(m)
	}
	return m
}

func label(text string) *Mkfs {
	return mkfs(func(m *Mkfs) { copy(m.Label[:], text) })
}

func subvolume(text string) *Mount {
	return mount(func(m *Mount) { copy(m.Subvolume[:], text) })
}

func TestFrames(t *testing.T) {
	for _, c := range []struct {
		name    string
		request Request
		files   int
		err     string // "" if it is good
	}{
		{"create", &Create{1 << 30}, 0, ""},
		{"create nothing", &Create{}, 0, "a lease has 1 to"},
		{"create too much", &Create{1 << 60}, 0, "a lease has 1 to"},
		{"create with descriptor", &Create{1 << 30}, 1, "comes with 0 descriptors, not with 1"},
		{"partition", &Partition{1 << 20, 4096}, 0, ""},
		{"partition of half sectors", &Partition{512, 4096}, 0, "whole sectors"},
		{"partition of odd sectors", &Partition{1 << 20, 1024}, 0, "whole sectors"},
		{"partition with a file", &Partition{1 << 20, 512}, 1, "comes with 0 descriptors"},
		{"mkfs", mkfs(nil), 0, ""},
		{"mkfs options", mkfs(func(m *Mkfs) { m.Set, m.On = LazyInit|Verity, Verity }), 0, ""},
		{"mkfs unknown type", mkfs(func(m *Mkfs) { m.Type = 9 }), 0, "no type 9"},
		{"mkfs type 0", mkfs(func(m *Mkfs) { m.Type = 0 }), 0, "no type 0"},
		{"mkfs unknown option", mkfs(func(m *Mkfs) { m.Set = 1 << 9 }), 0, "has not got"},
		{"mkfs option of another", mkfs(func(m *Mkfs) { m.Type, m.Set = XFS, Verity }), 0, "has not got"},
		{"mkfs true but not given", mkfs(func(m *Mkfs) { m.On = Verity }), 0, "has not got"},
		{"mkfs groups", mkfs(func(m *Mkfs) { m.Type, m.Groups = XFS, 4 }), 0, ""},
		{"mkfs groups of ext4", mkfs(func(m *Mkfs) { m.Groups = 4 }), 0, "allocation groups"},
		{"mkfs without uuid", mkfs(func(m *Mkfs) { m.UUID = [16]byte{} }), 0, "no uuid"},
		{"label", label("root disk"), 0, ""},
		{"label long", label("12345678901234567"), 0, "at most 16 bytes"},
		{"label option", label("-L"), 0, "begins with '-'"},
		{"label comma", label("a,b"), 0, "comma"},
		{"label NUL", label("a\x00b"), 0, "has a NUL"},
		{"label newline", label("a\nb"), 0, "not all printable"},
		{"label bytes", label("a\xff"), 0, "not all printable"},
		{"mount", mount(nil), 0, ""},
		{"mount with namespace", mount(nil), 1, "comes with 0 descriptors"},
		{"mount no map", mount(func(m *Mount) { m.UIDs[0] = Range{} }), 0, "at least one range"},
		{"mount read-only", mount(func(m *Mount) { m.ReadOnly = 1 }), 0, ""},
		{"mount half", mount(func(m *Mount) { m.ReadOnly = 2 }), 0, "0 or 1"},
		{"subvolume", subvolume("root/home"), 0, ""},
		{"subvolume dots", subvolume("../x"), 0, "no name of a subvolume"},
		{"subvolume dots inside", subvolume("a/../x"), 0, "no name of a subvolume"},
		{"subvolume absolute", subvolume("/x"), 0, "no name of a subvolume"},
		{"subvolume comma", subvolume("x,suid"), 0, "no name of a subvolume"},
		{"subvolume control", subvolume("x\ty"), 0, "not all printable"},
		{"label list", &Label{3}, 1, ""},
		{"label list without", &Label{3}, 0, "comes with 1 descriptors"},
		{"label list with two", &Label{3}, 2, "comes with 1 descriptors"},
		{"sync", &Sync{255}, 0, ""},
		{"export", &Export{}, 0, ""},
		{"close", &Close{}, 0, ""},
		{"status", &Status{}, 0, ""},
	} {
		frame := Encode(c.request)
		got, err := Decode(frame, c.files)
		if len(frame) > MaxFrame {
			t.Errorf("%s: %d bytes", c.name, len(frame))
		}
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || !errors.Is(err, syscall.EINVAL) {
				t.Errorf("%s: got error %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.request) {
			t.Errorf("%s: got %v, %v", c.name, got, err)
		}
		if _, err := Decode(append(frame, 0), c.files); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: with a byte behind it: %v", c.name, err)
		}
	}
}

func TestForeignFrames(t *testing.T) {
	for name, frame := range map[string][]byte{
		"empty": {}, "short": {1}, "version": {2, 8}, "verb": {1, 200}, "verb 0": {1, 0}, "long": {1, 8, 0},
	} {
		if _, err := Decode(frame, 0); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReply(t *testing.T) {
	if value, err := DecodeReply(Reply(99, nil)); value != 99 || err != nil {
		t.Errorf("got %d, %v", value, err)
	}
	if _, err := DecodeReply(Reply(0, Errorf(syscall.EBUSY, "mounted"))); !errors.Is(err, syscall.EBUSY) || err.Error() != "mounted" {
		t.Errorf("got %v", err)
	}
	frame := Reply(0, errors.New(strings.Repeat("é", MaxFrame)))
	if _, err := DecodeReply(frame); len(frame) > MaxFrame || !errors.Is(err, syscall.EIO) || len(err.Error()) < MaxText-1 {
		t.Errorf("reply of %d bytes, %v", len(frame), err)
	}
	if _, err := DecodeReply(frame[:10]); !errors.Is(err, syscall.EPROTO) {
		t.Errorf("a short reply: %v", err)
	}
}

// capability is cap_net_raw=ep.
var capability = [20]byte{1, 0, 0, 2, 0, 0x20}

func TestLabels(t *testing.T) {
	for _, c := range []struct {
		entry Entry
		err   string
	}{
		{Entry{Path: ".", SELinux: "system_u:object_r:root_t:s0"}, ""},
		{Entry{Path: "usr/bin/ping", Capability: capability, Flags: Immutable}, ""},
		{Entry{Path: "a\nb", Flags: Append}, ""},
		{Entry{Path: "", Flags: Append}, "no relative clean path"},
		{Entry{Path: "/etc", Flags: Append}, "no relative clean path"},
		{Entry{Path: "../etc", Flags: Append}, "no relative clean path"},
		{Entry{Path: "a/../../etc", Flags: Append}, "no relative clean path"},
		{Entry{Path: "a\x00", Flags: Append}, "in the middle"}, // the rest is another field
		{Entry{Path: "a", SELinux: "a\nb"}, "no SELinux context"},
		{Entry{Path: "a", Flags: 1}, "unknown inode flags"},
		{Entry{Path: "a"}, ""},
		{Entry{Path: "a", Capability: [20]byte{1}}, "no capabilities"},
		{Entry{Path: "a", Capability: [20]byte{1, 0, 0, 3}}, "no capabilities"},
	} {
		list := AppendEntry(AppendEntry(nil, Entry{Path: "first", Flags: Append}), c.entry)
		got, last := Labels(list)
		switch {
		case c.err == "" && (last != nil || len(got) != 2 || got[1] != c.entry):
			t.Errorf("%+v: got %+v, %v", c.entry, got, last)
		case c.err != "" && (last == nil || !strings.Contains(last.Error(), c.err) || !errors.Is(last, syscall.EINVAL)):
			t.Errorf("%+v: got error %v, want %q", c.entry, last, c.err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, r := range append(requests(), mkfs(nil), mount(nil)) {
		f.Add(Encode(r), 0)
	}
	f.Add(Encode(&Label{}), 1)
	f.Fuzz(func(t *testing.T, frame []byte, files int) {
		if r, err := Decode(frame, files); err == nil && !bytes.Equal(Encode(r), frame) {
			t.Errorf("%x is decoded to %v, which is %x", frame, r, Encode(r))
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add(Reply(2, nil))
	f.Add(Reply(2, errors.New("text")))
	f.Fuzz(func(t *testing.T, frame []byte) {
		_, err := DecodeReply(frame)
		if bad := new(Error); err != nil && !errors.As(err, &bad) {
			t.Error(err)
		}
	})
}

func FuzzLabels(f *testing.F) {
	f.Add(AppendEntry(nil, Entry{Path: ".", SELinux: "a:b:c:d"}))
	f.Add(AppendEntry(nil, Entry{Path: "a/b", Capability: capability, Flags: Immutable}))
	f.Fuzz(func(t *testing.T, list []byte) {
		entries, err := Labels(list)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range entries {
			again = AppendEntry(again, e)
		}
		if !bytes.Equal(again, list) {
			t.Errorf("%x is read as %x", list, again)
		}
	})
}
