package monitor

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ossify/ossify/ansi"
)

// glyphs are the signs of the display.
type glyphs struct {
	spinner                         []string
	done, failed, cached, wait, cut string
	full, empty                     string // cells of a bar
}

var unicodeGlyphs = glyphs{
	spinner: []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"},
	done:    "✓", failed: "✗", cached: "●", wait: "…", cut: "…", full: "━", empty: "─",
}

// asciiGlyphs are for the Linux console, whose fonts lack most of the others,
// and for locales that are not UTF-8.
var asciiGlyphs = glyphs{
	spinner: []string{"|", "/", "-", "\\"},
	done:    "+", failed: "x", cached: "=", wait: "~", cut: "~", full: "#", empty: ".",
}

// glyphsFor chooses by the environment, in the order of setlocale(3). Without
// any locale the terminal is taken to be a modern one.
func glyphsFor(getenv func(string) string) glyphs {
	if getenv("TERM") == "linux" {
		return asciiGlyphs
	}
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			if strings.Contains(v, "utf-8") || strings.Contains(v, "utf8") {
				break
			}
			return asciiGlyphs
		}
	}
	return unicodeGlyphs
}

// Colours, as parameters of SGR (ECMA-48, 8.3.117).
const (
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	blue   = "34"
	cyan   = "36"
)

// style is how lines look: signs, colours or none, and columns.
type style struct {
	glyphs
	color bool
	names int // width of the column of pipeline names
}

func (s style) paint(code, text string) string {
	if !s.color || code == "" || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// row is a line of limited width under construction.
type row struct {
	style
	text  strings.Builder
	cells int
	width int
}

func (r *row) room() int { return r.width - r.cells }

// add appends as much of the text as there is room for.
func (r *row) add(code, text string) *row {
	text = cut(text, r.room(), r.glyphs.cut)
	r.cells += utf8.RuneCountInString(text)
	r.text.WriteString(r.paint(code, text))
	return r
}

// addWhole appends the text if all of it has room.
func (r *row) addWhole(code, text string) *row {
	if utf8.RuneCountInString(text) <= r.room() {
		r.add(code, text)
	}
	return r
}

// activity is something that goes on: a stage, or a download if source is set.
type activity struct {
	stage  StageInfo
	source string
	start  time.Time

	output []byte // of a stage: what it printed since its last newline
	last   string // of a stage: its last line that was not blank

	progress DownloadProgress
	samples  []sample // of a download, the oldest first
}

// sample is how far a download was at a time.
type sample struct {
	at   time.Time
	done int64
}

// rateWindow is the time over which the rate of a download is taken.
const rateWindow = 5 * time.Second

// sampleEvery is the least time between two samples, however often a source tells.
const sampleEvery = 20 * time.Millisecond

// print takes in output of the stage.
func (a *activity) print(chunk []byte) {
	a.output = append(a.output, chunk...)
	if end := bytes.LastIndexByte(a.output, '\n'); end >= 0 {
		for whole := a.output[:end]; len(whole) > 0; {
			start := bytes.LastIndexByte(whole, '\n') + 1
			if line := strings.TrimSpace(ansi.Line(whole[start:])); line != "" {
				a.last = line
				break
			}
			whole = whole[:max(0, start-1)]
		}
		a.output = a.output[end+1:]
	}
	// Of a line that does not end only the end can be seen.
	over := max(0, len(a.output)-maxLine)
	a.output = append([]byte(nil), a.output[over:]...)
}

// current is the line that the stage prints, or has printed last.
func (a *activity) current() string {
	if line := strings.TrimSpace(ansi.Line(a.output)); line != "" {
		return line
	}
	return a.last
}

// advance takes in how far the download is.
func (a *activity) advance(p DownloadProgress, now time.Time) {
	if p.Total == 0 {
		p.Total = a.progress.Total
	}
	if p.Items == 0 {
		p.Items = a.progress.Items
	}
	a.progress = p
	for len(a.samples) > 1 && now.Sub(a.samples[1].at) >= rateWindow {
		a.samples = a.samples[1:]
	}
	if n := len(a.samples); n == 0 || now.Sub(a.samples[n-1].at) >= sampleEvery {
		a.samples = append(a.samples, sample{now, p.Done})
	}
}

// rate is the download's speed in bytes per second, 0 if not known yet.
func (a *activity) rate(now time.Time) int64 {
	first := sample{a.start, 0}
	if len(a.samples) > 0 && now.Sub(a.start) > rateWindow {
		first = a.samples[0]
	}
	d := now.Sub(first.at)
	if d < 200*time.Millisecond {
		return 0
	}
	return int64(float64(a.progress.Done-first.done) / d.Seconds())
}

// running is the line of an activity.
func (s style) running(a *activity, spinner string, now time.Time, width int) string {
	r := &row{style: s, width: width}
	r.add(cyan, spinner).add("", " ")
	if a.source != "" {
		s.download(r, a, now)
	} else {
		s.title(r, a.stage)
		r.addWhole("", "  "+elapsed(now.Sub(a.start)))
		if line := a.current(); line != "" && r.room() > 8 {
			r.add(dim, "  "+line)
		}
	}
	return r.text.String()
}

// title writes which stage it is; where it is narrow, only its name.
func (s style) title(r *row, info StageInfo) {
	name := info.Name
	if r.width >= 60 {
		place := fmt.Sprintf("%d/%d", info.Index+1, info.Count)
		r.add(dim, fmt.Sprintf("%-*s %5s  ", s.names, info.Pipeline, place))
		name = fmt.Sprintf("%-26s", name)
	}
	r.add("", name)
}

func (s style) download(r *row, a *activity, now time.Time) {
	p := a.progress
	amount := ""
	switch {
	case p.Total > 0:
		amount = Bytes(p.Done) + " of " + Bytes(p.Total)
	case p.Done > 0:
		amount = Bytes(p.Done)
	}
	fields := []string{amount, fmt.Sprintf("%d/%d", p.ItemsDone, p.Items)}
	if rate := a.rate(now); rate > 0 {
		fields = append(fields, Bytes(rate)+"/s")
	}
	fields = append(fields, elapsed(now.Sub(a.start)))
	text := ""
	for _, f := range fields {
		if f != "" && utf8.RuneCountInString(a.source+text+f)+2 <= r.room() {
			text += "  " + f
		}
	}
	r.add("", a.source)
	done, total := p.Done, p.Total
	if total == 0 {
		done, total = int64(p.ItemsDone), int64(p.Items)
	}
	if cells := min(30, r.room()-utf8.RuneCountInString(text)-2); cells >= 8 && total > 0 {
		full := int(float64(cells) * float64(min(max(done, 0), total)) / float64(total))
		r.add("", "  ").add(cyan, strings.Repeat(s.full, full)).add(dim, strings.Repeat(s.empty, cells-full))
	}
	r.add("", text)
}

// finished is the line that stays of a stage.
func (s style) finished(info StageInfo, result StageResult, width int) string {
	r := &row{style: s, width: width}
	switch {
	case !result.Success:
		r.add(red, s.failed)
	case result.Cached:
		r.add(blue, s.cached)
	default:
		r.add(green, s.done)
	}
	r.add("", " ")
	s.title(r, info)
	if result.Cached {
		r.add(dim, "  cached")
	} else {
		r.add("", "  "+Seconds(result.Duration))
	}
	return r.text.String()
}
