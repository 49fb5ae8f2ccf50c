package dpkg

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/ossify/ossify/pattern"
)

// tailLines is how many lines of a script's output an error repeats.
const tailLines = 20

// output passes on what dpkg and scripts print and remembers the end of it,
// from the last package on.
type output struct {
	log  io.Writer
	line []byte
	tail []string
}

var (
	startRE = pattern.New(`^(Setting up|Processing triggers for) `)
	errorRE = pattern.New(`^dpkg: error processing package (\S+) \(`)
)

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	rest := p
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			o.line = append(o.line, rest...)
			break
		}
		o.add(string(append(o.line, rest[:i]...)))
		o.line = o.line[:0]
		rest = rest[i+1:]
	}
	if o.log == nil {
		return len(p), nil
	}
	return o.log.Write(p)
}

func (o *output) add(line string) {
	if startRE().MatchString(line) {
		o.tail = o.tail[:0]
	}
	o.tail = append(o.tail, line)
	if len(o.tail) > tailLines {
		o.tail = append(o.tail[:0], o.tail[1:]...)
	}
}

// explain adds to err the package that dpkg names and the last lines of the
// output.
func (o *output) explain(err error) error {
	if len(o.line) > 0 {
		o.add(string(o.line))
		o.line = nil
	}
	for _, line := range o.tail {
		if m := errorRE().FindStringSubmatch(line); m != nil {
			err = fmt.Errorf("package %s: %w", strings.TrimSuffix(m[1], ":"), err)
			break
		}
	}
	if len(o.tail) == 0 {
		return err
	}
	return fmt.Errorf("%w; last output:\n  %s", err, strings.Join(o.tail, "\n  "))
}
