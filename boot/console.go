package boot

import (
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

// consoleLimit is how many cleaned bytes a console keeps.
const consoleLimit = 256 << 10

// console keeps the end of what a guest printed, cleaned, and copies the
// bytes as they are to another writer.
type console struct {
	copy  io.Writer     // may be nil
	first chan struct{} // closed at the first byte

	mu     sync.Mutex
	clean  cleaner
	text   []byte
	taken  int // how much of text was matched
	change chan struct{}
}

func newConsole(w io.Writer) *console {
	return &console{copy: w, first: make(chan struct{}), change: make(chan struct{})}
}

// Write never fails: a guest should not end since somebody closed a pipe.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	select {
	case <-c.first:
	default:
		if len(p) > 0 {
			close(c.first)
		}
	}
	for _, b := range p {
		c.text = c.clean.add(c.text, b)
	}
	if over := len(c.text) - consoleLimit; over > 0 {
		c.text = append(c.text[:0], c.text[over:]...)
		c.taken = max(0, c.taken-over)
	}
	close(c.change)
	c.change = make(chan struct{})
	c.mu.Unlock()
	if c.copy != nil {
		c.copy.Write(p)
	}
	return len(p), nil
}

// changed returns a channel that closes at the next write.
func (c *console) changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.change
}

func (c *console) any() bool {
	select {
	case <-c.first:
		return true
	default:
		return false
	}
}

func (c *console) take(pattern *regexp.Regexp) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := pattern.FindIndex(c.text[c.taken:])
	if at == nil {
		return "", false
	}
	found := string(c.text[c.taken+at[0] : c.taken+at[1]])
	c.taken += at[1]
	return found, true
}

func (c *console) tail(n int) string {
	c.mu.Lock()
	text := string(c.text)
	c.mu.Unlock()
	var lines []string
	for line := range strings.Lines(text) {
		if line = printable(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// printable makes one line fit for a message.
func printable(line string) string {
	return strings.TrimRight(strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(line, "?")), " ")
}

// cleaner drops terminal control sequences (ECMA-48) from a stream, wherever
// it is cut, and makes every kind of line end "\n".
type cleaner struct {
	in byte // what the next byte belongs to: one of the in constants
	cr bool // a carriage return is held back
}

const (
	inText    byte = iota
	inEscape       // after ESC
	inCSI          // ESC [ up to its final byte
	inString       // ESC ] P X ^ _ up to BEL or ESC \
	inCharset      // ESC ( ) and kin up to the final byte
)

// add appends to text what b means.
func (c *cleaner) add(text []byte, b byte) []byte {
	if b == 0x1b {
		c.in = inEscape
		return text
	}
	switch c.in {
	case inEscape:
		switch {
		case b == '[':
			c.in = inCSI
		case strings.IndexByte("]PX^_", b) >= 0:
			c.in = inString
		case b >= 0x20 && b <= 0x2f:
			c.in = inCharset
		default:
			c.in = inText
		}
		return text
	case inCSI:
		if b >= 0x40 && b <= 0x7e {
			c.in = inText
			if b == 'H' || b == 'f' { // the cursor goes elsewhere
				return newline(text)
			}
			return text
		}
		if b >= 0x20 && b < 0x40 {
			return text
		}
		c.in = inText // not a sequence after all
	case inString:
		// Line ends show a string that lost its end; text must not vanish in it.
		if b != 0x07 && b != '\n' {
			return text
		}
		c.in = inText
		if b == 0x07 {
			return text
		}
	case inCharset:
		if b >= 0x30 {
			c.in = inText
		}
		return text
	}
	if b == '\r' {
		c.cr = true
		return text
	}
	if c.cr {
		c.cr = false
		if b != '\n' {
			text = newline(text)
		}
	}
	if b < 0x20 && b != '\n' && b != '\t' || b == 0x7f {
		return text
	}
	return append(text, b)
}

// newline ends the line unless it is empty.
func newline(text []byte) []byte {
	if len(text) == 0 || text[len(text)-1] == '\n' {
		return text
	}
	return append(text, '\n')
}
