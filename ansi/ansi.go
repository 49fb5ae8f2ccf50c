// Package ansi turns what programs write for a terminal into plain text: the
// output of stages, and the serial consoles of machines. The text is foreign,
// so nothing of it may reach the user's terminal as a command.
package ansi

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// state is where in a control sequence (ECMA-48, section 5) the stripper is.
type state int

const (
	ground  state = iota
	escape        // after ESC
	short         // after ESC and an intermediate byte, as in "ESC ( B"
	control       // after ESC [ : parameters up to a byte from @ to ~
	str           // after ESC ] and its like: text up to BEL or ESC \
	strEnd        // the ESC in such a text
)

// maxSequence is the length, in characters, after which a control sequence is
// taken for a broken one.
const maxSequence = 4096

// Stripper makes plain text of a stream that comes in pieces. Lines end with
// "\n" alone: a line with text in it ends, too, where the cursor is moved back
// to its start or elsewhere, so that nothing is lost. The zero value is ready
// for use.
type Stripper struct {
	state  state
	length int    // characters of the control sequence so far
	text   bool   // the line has text
	moved  bool   // the cursor was moved since
	rest   []byte // an incomplete UTF-8 sequence
}

// Strip returns the plain text of the next piece.
func (s *Stripper) Strip(chunk []byte) string {
	var out strings.Builder
	s.each(chunk, func(r rune, moved bool) {
		if moved {
			out.WriteByte('\n')
		}
		out.WriteRune(r)
	})
	return out.String()
}

// each calls emit for every printable rune, tab and newline; moved says that
// the cursor went back to the start of the line before it.
func (s *Stripper) each(chunk []byte, emit func(r rune, moved bool)) {
	data := chunk
	if len(s.rest) > 0 {
		data = append(s.rest, chunk...)
		s.rest = nil
	}
	for len(data) > 0 {
		if !utf8.FullRune(data) {
			s.rest = append([]byte(nil), data...)
			return
		}
		r, n := utf8.DecodeRune(data)
		data = data[n:]
		if s.swallow(r) {
			continue
		}
		switch {
		case r == '\r':
			s.moved = s.text
		case r == '\n':
			s.text, s.moved = false, false
			emit(r, false)
		case r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)):
		default:
			moved := s.moved
			s.text, s.moved = true, false
			emit(r, moved)
		}
	}
}

// swallow reports whether r belongs to a control sequence.
func (s *Stripper) swallow(r rune) bool {
	if s.state != ground {
		s.length++
		// A sequence without end must not hide the rest of the output.
		if s.length > maxSequence {
			s.state = ground
		}
	}
	switch s.state {
	case ground:
		if r != '\x1b' {
			return false
		}
		s.state, s.length = escape, 0
	case escape:
		switch {
		case r == '\x1b':
		case r == '[':
			s.state = control
		case strings.ContainsRune("]PX^_", r):
			s.state = str
		case r >= ' ' && r <= '/':
			s.state = short
		default:
			s.state = ground
			return r >= '0' && r <= '~'
		}
	case short, control:
		switch {
		case r == '\x1b':
			s.state = escape
		case r == '\n' || r == '\r':
			s.state = ground
			return false
		case s.state == control && r >= '@' && r <= '~':
			s.state = ground
			if r == 'H' || r == 'f' { // CUP, HVP: the cursor goes to a place
				s.moved = s.text
			}
		case s.state == short && r >= '0' && r <= '~':
			s.state = ground
		}
	case str:
		switch r {
		case '\a':
			s.state = ground
		case '\x1b':
			s.state = strEnd
		}
	case strEnd:
		if r == '\\' {
			s.state = ground
			return true
		}
		s.state = escape
		return s.swallow(r)
	}
	return true
}

// Line returns how a line of output looks at its end: after a carriage return
// the text that was there is written over, as in the bars of other programs.
// Tabs become single spaces.
func Line(raw []byte) string {
	if !slices.ContainsFunc(raw, func(b byte) bool { return b < ' ' || b > '~' }) {
		return string(raw) // as most lines are
	}
	var s Stripper
	var out strings.Builder
	s.each(raw, func(r rune, moved bool) {
		if moved {
			out.Reset()
		}
		if r == '\t' || r == '\n' {
			r = ' '
		}
		out.WriteRune(r)
	})
	return out.String()
}
