package boot

import (
	"bytes"
	"io"
	"strings"
)

// unwanted are sequences that SeaBIOS sends and nobody takes back: they reset
// the user's terminal with all its history, and switch the wrapping of lines off.
var unwanted = []string{"\x1bc", "\x1b[?7l"}

// calm passes on what is written, without the unwanted sequences.
type calm struct {
	w    io.Writer
	held []byte // the start of what may be unwanted
}

func (c *calm) Write(p []byte) (int, error) {
	data := append(c.held, p...)
	for _, s := range unwanted {
		data = bytes.ReplaceAll(data, []byte(s), nil)
	}
	keep := len(data)
	if i := bytes.LastIndexByte(data, '\x1b'); i >= 0 {
		for _, s := range unwanted {
			if strings.HasPrefix(s, string(data[i:])) {
				keep = i
			}
		}
	}
	c.held = append([]byte(nil), data[keep:]...)
	if _, err := c.w.Write(data[:keep]); err != nil {
		return 0, err
	}
	return len(p), nil
}
