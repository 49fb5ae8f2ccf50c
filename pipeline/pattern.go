package pipeline

import (
	"fmt"
	"strings"
	"time"

	"github.com/dlclark/regexp2"
	"github.com/ossify/ossify/pyjson"
)

// pattern is a regular expression with Python's meaning, for which .NET's come
// nearest: lookaheads, Unicode classes, and $ before a last newline.
type pattern struct{ re *regexp2.Regexp }

// matchTimeout ends a match that backtracks without end.
const matchTimeout = 10 * time.Second

func newPattern(text string) (*pattern, error) {
	re, err := regexp2.Compile(fromPython(text), regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("regular expression: %w", err)
	}
	re.MatchTimeout = matchTimeout
	return &pattern{re}, nil
}

// fromPython rewrites what Python spells differently: \Z is the very end,
// named groups are (?P<name>...), and _ may be escaped.
func fromPython(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			switch s[i] {
			case '_':
				b.WriteByte('_')
			case 'Z':
				b.WriteString(`\z`)
			default:
				b.WriteString(s[i-1 : i+1])
			}
		case strings.HasPrefix(s[i:], "(?P<"):
			b.WriteString("(?<")
			i += len("(?P<") - 1
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// matches says whether a part of the text matches.
func (p *pattern) matches(text string) bool {
	ok, err := p.re.MatchRunes(pyjson.Runes(text))
	return err == nil && ok
}
