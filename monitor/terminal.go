package monitor

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ossify/ossify/ansi"
	"golang.org/x/term"
)

// interval is the time between two drawings.
const interval = 100 * time.Millisecond

// terminal draws a line for everything that goes on, and lets what is done
// scroll away above:
//
//	✓ os  2/14  org.ossify.dpkg  18.4s         what is done stays
//	⠹ os  3/14  org.osbuild.users  0.1s        the frame: drawn again each time
//	⠹ org.osbuild.curl ━━━━──── 12.1 MiB ...
//	_                                          the cursor, between two drawings
//
// Nothing is kept on the terminal between two drawings (no hidden cursor, no
// mode), so that a killed build leaves it as it was.
type terminal struct {
	mu      sync.Mutex
	write   func(string)
	size    func() (width, height int)
	now     func() time.Time
	style   style
	begun   []string       // pipelines in the order of their begin
	cached  map[string]int // of each of them: stages that BeginPipeline gave as cached
	running []*activity
	pending []string // finished lines, not yet on the terminal
	frame   []string // the lines that are on the terminal
	columns int      // the terminal's width when they were drawn
	turn    int      // of the spinner
	closed  bool
	stop    chan struct{}
	stopped chan struct{}
}

// NewTerminal returns a Monitor that draws on f, which stays the caller's. If f
// is no terminal, or one that cannot move its cursor, it gets the lines of
// NewLog. NO_COLOR in the environment is obeyed (no-color.org).
func NewTerminal(f *os.File) Monitor {
	if kind := os.Getenv("TERM"); kind == "" || kind == "dumb" || !term.IsTerminal(int(f.Fd())) {
		return NewLog(f)
	}
	t := &terminal{
		write: func(text string) { _, _ = f.WriteString(text) },
		size: func() (int, int) {
			if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
				return w, h
			}
			return 80, 24
		},
		now:    time.Now,
		style:  style{glyphs: glyphsFor(os.Getenv), color: os.Getenv("NO_COLOR") == ""},
		cached: map[string]int{},
		stop:   make(chan struct{}), stopped: make(chan struct{}),
	}
	go t.loop()
	return t
}

func (t *terminal) loop() {
	defer close(t.stopped)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-tick.C:
			t.mu.Lock()
			t.turn++
			t.draw()
			t.mu.Unlock()
		}
	}
}

// draw brings the terminal up to date in one write and without erasing what
// stays, so that nothing flickers. The caller holds the lock.
func (t *terminal) draw() {
	width, height := t.size()
	frame := t.lines(width-1, height-1)
	if len(t.pending) == 0 && width == t.columns && slices.Equal(frame, t.frame) {
		return
	}
	var b strings.Builder
	b.WriteString("\x1b[?25l") // hide the cursor while it moves
	if rows := t.rows(width); rows > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", rows)
	}
	b.WriteString("\r")
	if len(t.pending) > 0 || width != t.columns {
		b.WriteString("\x1b[J")
	}
	for _, line := range t.pending {
		b.WriteString(line + "\n")
	}
	// No line of the frame may wrap, however wide its characters are.
	b.WriteString("\x1b[?7l")
	for _, line := range frame {
		b.WriteString(line + "\x1b[K\n")
	}
	b.WriteString("\x1b[?7h\x1b[J\x1b[?25h")
	t.pending, t.frame, t.columns = nil, frame, width
	t.write(b.String())
}

// rows is how many rows the frame has now: terminals wrap lines that were drawn
// before the window was made narrower.
func (t *terminal) rows(width int) int {
	if width >= t.columns {
		return len(t.frame)
	}
	n := 0
	for _, line := range t.frame {
		cells := utf8.RuneCountInString(ansi.Line([]byte(line)))
		n += max(1, (cells+width-1)/width)
	}
	return n
}

// lines are those of the frame, as many as there is room for.
func (t *terminal) lines(width, height int) []string {
	now := t.now()
	spinner := t.style.spinner[t.turn%len(t.style.spinner)]
	shown := t.running
	if len(shown) > height {
		shown = shown[:max(0, height-1)]
	}
	var lines []string
	for _, a := range shown {
		lines = append(lines, t.style.running(a, spinner, now, width))
	}
	if more := len(t.running) - len(shown); more > 0 && height > 0 {
		lines = append(lines, cut(fmt.Sprintf("  and %d more", more), width, t.style.cut))
	}
	return lines
}

// say puts lines above the moving ones. The caller holds the lock.
func (t *terminal) say(lines ...string) {
	if !t.closed {
		t.pending = append(t.pending, lines...)
	}
}

// width is the room of a finished line, which may be wider than the terminal.
func (t *terminal) width() int {
	width, _ := t.size()
	return max(width, 60)
}

// add puts the activity in its place: pipelines in the order of their begin, so
// that lines do not change places, then downloads.
func (t *terminal) add(a *activity) {
	place := func(a *activity) int {
		if i := slices.Index(t.begun, a.stage.Pipeline); a.source == "" && i >= 0 {
			return i
		}
		return len(t.begun)
	}
	t.running = append(t.running, a)
	slices.SortStableFunc(t.running, func(a, b *activity) int { return place(a) - place(b) })
}

// find returns the running download or, if source is "", the running stage.
func (t *terminal) find(source string, stage StageInfo) *activity {
	for _, a := range t.running {
		if a.source == source && a.stage == stage {
			return a
		}
	}
	return nil
}

func (t *terminal) remove(a *activity) {
	t.running = slices.DeleteFunc(t.running, func(other *activity) bool { return other == a })
}

func (t *terminal) Log(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.say(plainLines(text)...)
}

func (t *terminal) BeginDownload(source string, items int, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(&activity{source: source, start: t.now(), progress: DownloadProgress{Items: items, Total: bytes}})
}

func (t *terminal) Download(source string, p DownloadProgress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.find(source, StageInfo{}); a != nil {
		a.advance(p, t.now())
	}
}

func (t *terminal) BeginBuild(int, int) {}

func (t *terminal) EndBuild(bool) {} // the caller sums up

func (t *terminal) EndDownload(source string, r DownloadResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.find(source, StageInfo{})
	if a == nil {
		return
	}
	t.remove(a)
	s, n := t.style, a.progress.Items
	switch {
	case r.Err != nil:
		t.say(s.paint(red, s.failed) + " " + source)
	case n == r.Cached:
		t.say(fmt.Sprintf("%s %s  %s", s.paint(blue, s.cached), source, s.paint(dim, fmt.Sprintf("%s cached", count(n, "item")))))
	default:
		t.say(fmt.Sprintf("%s %s  %d downloaded, %d cached  %s", s.paint(green, s.done), source, n-r.Cached, r.Cached, Seconds(t.now().Sub(a.start))))
	}
}

func (t *terminal) BeginPipeline(p PipelineInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = append(t.begun, p.Name)
	t.style.names = max(t.style.names, min(16, utf8.RuneCountInString(p.Name)))
	t.cached[p.Name] = p.Cached
	if s := t.style; p.Cached > 0 {
		t.say(fmt.Sprintf("%s %s  %s", s.paint(blue, s.cached), p.Name, s.paint(dim, fmt.Sprintf("%d of %s cached", p.Cached, count(p.Stages, "stage")))))
	}
}

func (t *terminal) BeginStage(s StageInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(&activity{stage: s, start: t.now()})
}

func (t *terminal) StageOutput(s StageInfo, chunk []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.find("", s); a != nil {
		a.print(chunk)
	}
}

func (t *terminal) EndStage(s StageInfo, r StageResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.find("", s); a != nil {
		t.remove(a)
	}
	if r.Cached && r.Success && s.Index < t.cached[s.Pipeline] {
		return // BeginPipeline has told
	}
	t.say(t.style.finished(s, r, t.width()))
}

func (t *terminal) EndPipeline(string, bool) {} // its last stage has said it

func (t *terminal) Waiting(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.say(t.style.paint(yellow, t.style.wait) + " waiting: " + ansi.Line([]byte(what)))
}

func (t *terminal) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.running = nil
	t.draw()
	t.mu.Unlock()
	close(t.stop)
	<-t.stopped
	return nil
}
