package bls

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	got := Parse("# a comment\n\ntitle x\nversion  6.1 \nlinux\t/vmlinuz\ninitrd /a.img\ninitrd /b.img\noptions root=/dev/vda1 ro\nfuture\n")
	want := Entry{Version: "6.1", Linux: "/vmlinuz", Initrd: "/b.img", Options: "root=/dev/vda1 ro"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAppendOptions(t *testing.T) {
	tests := []struct{ text, want string }{
		{"title x\noptions ro\noptions quiet\n", "title x\noptions ro a b\noptions quiet\n"},
		{"options ro", "options ro a b\n"},
		{"options\tro\r\ntitle x\r\n", "options\tro\ntitle x\noptions a b\n"},
		{"title x\x0cy\u2028z", "title x\ny\nz\noptions a b\n"},
		{"", "options a b\n"},
		{"\n\n", "\n\noptions a b\n"},
	}
	for _, test := range tests {
		if got := AppendOptions(test.text, []string{"a", "b"}); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}

func TestReplaceBoot(t *testing.T) {
	tests := []struct {
		text   string
		nested bool
		want   string
	}{
		{"linux /run/tree/boot/vmlinuz\n", true, "linux @/vmlinuz\n"},
		{"linux /boot/vmlinuz\n", true, "linux /boot/vmlinuz\n"},
		{"linux /boot/vmlinuz\n", false, "linux @/vmlinuz\n"},
		{"initrd /a/boot/x /b/boot/y", true, "initrd @/y"},
		{"linux /boot/bootx/boot", true, "linux @"},
		{"linux //boot", true, "linux @"},
		{"linux boot\n/x\n", false, "linux boot\n/x\n"},
		{"options root=/dev/vda\nlinux /boot/v\n", true, "options root=/dev/vda\nlinux /boot/v\n"},
	}
	for _, test := range tests {
		if got := ReplaceBoot(test.text, "@", test.nested); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}

// FuzzLines wants the lines of a text to be all of it, and no line to hold two.
func FuzzLines(f *testing.F) {
	f.Add("a\r\nb\rc\n\n\u2028d\x85")
	f.Fuzz(func(t *testing.T, text string) {
		all := lines(text)
		if strings.Join(all, "") != strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text) {
			t.Fatalf("lines of %q are %q", text, all)
		}
		for _, line := range all {
			if line == "" || len(lines(line)) != 1 {
				t.Fatalf("%q is no line", line)
			}
		}
	})
}
