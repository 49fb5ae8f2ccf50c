package monitor

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// screen is a terminal that understands just what the display sends, and fails
// the test on anything else. Rows that are scrolled away stay in it.
type screen struct {
	t        *testing.T
	rows     [][]rune
	row, col int
	width    int
	wrap     bool
	cursor   bool
}

func newScreen(t *testing.T, width int) *screen {
	return &screen{t: t, rows: make([][]rune, 1), width: width, wrap: true, cursor: true}
}

var sequence = regexp.MustCompile(`^\x1b\[(\??)([0-9;]*)([A-Za-z])`)

func (s *screen) write(text string) {
	for text != "" {
		if m := sequence.FindStringSubmatch(text); m != nil {
			s.control(m[1]+m[3], m[2])
			text = text[len(m[0]):]
			continue
		}
		r := []rune(text)[0]
		text = text[len(string(r)):]
		switch {
		case r == '\r':
			s.col = 0
		case r == '\n':
			s.row, s.col = s.row+1, 0
		case r < ' ' || r == 0x7f:
			s.t.Errorf("control character %q", r)
		default:
			s.put(r)
		}
		for len(s.rows) <= s.row {
			s.rows = append(s.rows, nil)
		}
	}
}

func (s *screen) put(r rune) {
	if s.col == s.width {
		if !s.wrap {
			s.t.Errorf("text does not fit: %q at %q", r, string(s.rows[s.row]))
			return
		}
		s.row, s.col = s.row+1, 0
		if len(s.rows) <= s.row {
			s.rows = append(s.rows, nil)
		}
	}
	line := s.rows[s.row]
	for len(line) <= s.col {
		line = append(line, ' ')
	}
	line[s.col] = r
	s.rows[s.row] = line
	s.col++
}

func (s *screen) control(name, parameters string) {
	switch name {
	case "A":
		n, _ := strconv.Atoi(parameters)
		if n > s.row {
			s.t.Errorf("cursor up %d from row %d", n, s.row)
		}
		s.row = max(0, s.row-n)
	case "K":
		s.rows[s.row] = s.rows[s.row][:min(s.col, len(s.rows[s.row]))]
	case "J":
		s.rows[s.row] = s.rows[s.row][:min(s.col, len(s.rows[s.row]))]
		s.rows = s.rows[:s.row+1]
	case "m":
	case "?h", "?l":
		on := name == "?h"
		switch parameters {
		case "7":
			s.wrap = on
		case "25":
			s.cursor = on
		default:
			s.t.Errorf("mode %s", parameters)
		}
	default:
		s.t.Errorf("control sequence %s %s", name, parameters)
	}
}

// resize makes the screen narrower as most terminals do: long lines wrap.
func (s *screen) resize(width int) {
	var rows [][]rune
	row := s.row
	for i, line := range s.rows {
		if i == s.row {
			row = len(rows)
		}
		for len(line) > width {
			rows = append(rows, line[:width])
			line = line[width:]
		}
		rows = append(rows, line)
	}
	s.rows, s.row, s.width = rows, row, width
}

func (s *screen) String() string {
	var b strings.Builder
	for _, line := range s.rows {
		fmt.Fprintln(&b, strings.TrimRight(string(line), " "))
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
