package boot

import (
	"io"
	"regexp"
	"strings"
	"sync"

	"github.com/ossify/ossify/ansi"
)

// consoleLimit is how many cleaned bytes a console keeps.
const consoleLimit = 256 << 10

// console keeps the end of what a guest printed, cleaned, and copies the
// bytes as they are to another writer.
type console struct {
	copy  io.Writer     // may be nil
	first chan struct{} // closed at the first byte

	mu     sync.Mutex
	clean  ansi.Stripper
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
	c.text = append(c.text, c.clean.Strip(p)...)
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

// take looks for the pattern in what was not taken yet, and takes all up to the
// match's end.
func (c *console) take(pattern *regexp.Regexp) (text, match string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := pattern.FindIndex(c.text[c.taken:])
	if at == nil {
		return "", "", false
	}
	text = string(c.text[c.taken : c.taken+at[1]])
	c.taken += at[1]
	return text, text[at[0]:], true
}

func (c *console) tail(n int) string {
	c.mu.Lock()
	text := string(c.text)
	c.mu.Unlock()
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, " \t\n"); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
