package ansi

import (
	"strings"
	"testing"
	"unicode"
)

func TestStrip(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "hello\n", "hello\n"},
		{"colour", "[\x1b[0;32m  OK  \x1b[0m] Reached \x1b[0;1;39mmulti-user.target\x1b[0m", "[  OK  ] Reached multi-user.target"},
		{"line ends", "a\r\nb\r\r\nc\rd", "a\nb\nc\nd"},
		{"menu", "\x1b[Hmenu\x1b[2;3Hitem\x1b[H\x1b[J", "menu\nitem"},
		{"return at the start", "\rtext", "text"},
		{"title", "\x1b]0;title\x07text\x1b]2;other\x1b\\more", "textmore"},
		{"character set", "\x1b(Btext\x1b)0", "text"},
		{"reset and keypad", "\x1bc\x1b=\x1b7text", "text"},
		{"SeaBIOS", "\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1)\r\n", "SeaBIOS (version 1)\n"},
		{"bracketed paste", "\x1b[?2004hroot# ", "root# "},
		{"tab stays", "a\tb", "a\tb"},
		{"bell and null", "a\a\x00b", "ab"},
		{"C1", "a\u009bb", "ab"},
		{"text direction", "a\u202eb", "ab"},
		{"UTF-8", "größe ✓", "größe ✓"},
		{"not UTF-8", "a\xffb", "a\ufffdb"},
		{"newline in a sequence", "\x1b[31\nnext", "\nnext"},
		{"sequence in a sequence", "\x1b[3\x1b[31mred", "red"},
		{"string cut short", "\x1b]0;title\x1b[31mred", "red"},
		{"string without end", "\x1b]0;" + strings.Repeat("x", maxSequence) + "after", "xxxafter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var whole, parts Stripper
			if got := whole.Strip([]byte(c.in)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			got := ""
			for _, b := range []byte(c.in) {
				got += parts.Strip([]byte{b})
			}
			if got != c.want {
				t.Errorf("byte by byte: got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLine(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain", "plain"},
		{"with end\r", "with end"},
		{" 10%\r 20%\r100%", "100%"},
		{" 10%\r\x1b[K 20%", " 20%"},
		{"a\tb", "a b"},
		{"\x1b[31mred\x1b[0m", "red"},
		{"cut \x1b[3", "cut "},
	} {
		if got := Line([]byte(c.in)); got != c.want {
			t.Errorf("Line(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func FuzzStrip(f *testing.F) {
	for _, seed := range []string{"a\r\nb", "\x1b[31mred\x1b[0m", "\x1b]0;t\x07x", "\x1b(B", "\xe2\x9c", "a\rb", "\x1bP\x1b\x1b\\"} {
		f.Add([]byte(seed), 1)
	}
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		var whole, parts Stripper
		want := whole.Strip(data)
		at = min(max(at, 0), len(data))
		if got := parts.Strip(data[:at]) + parts.Strip(data[at:]); got != want {
			t.Errorf("cut at %d: %q, whole: %q", at, got, want)
		}
		for _, r := range want + Line(data) {
			if r != '\n' && r != '\t' && unicode.IsControl(r) {
				t.Errorf("control character %U in %q", r, want)
			}
		}
	})
}
