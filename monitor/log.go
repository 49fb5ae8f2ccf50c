package monitor

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ossify/ossify/ansi"
)

// logEvery is the least time between two lines about one download.
const logEvery = 10 * time.Second

// maxLine is how many bytes of a line without an end are held back.
const maxLine = 64 << 10

// logMonitor writes plain lines, for files and CI.
type logMonitor struct {
	mu     sync.Mutex
	w      io.Writer
	now    func() time.Time
	rest   map[StageInfo][]byte // of each running stage: its unfinished line
	told   map[string]time.Time // of each running download: when it was last written about
	items  map[string]int       // of each running download
	cached map[string]int       // of each pipeline: stages that BeginPipeline gave as cached
	closed bool
}

// NewLog returns a Monitor that writes plain lines to w, which stays the
// caller's. What stages print is indented and has no control characters.
func NewLog(w io.Writer) Monitor {
	return &logMonitor{
		w: w, now: time.Now,
		rest: map[StageInfo][]byte{}, told: map[string]time.Time{}, items: map[string]int{}, cached: map[string]int{},
	}
}

// print writes a line; the caller holds the lock.
func (l *logMonitor) print(format string, args ...any) {
	if !l.closed {
		_, _ = fmt.Fprintf(l.w, format+"\n", args...)
	}
}

func (l *logMonitor) Log(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range plainLines(text) {
		l.print("%s", line)
	}
}

func (l *logMonitor) BeginDownload(source string, items int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told[source], l.items[source] = l.now(), items
	size := ""
	if bytes > 0 {
		size = ", " + Bytes(bytes)
	}
	l.print("%s: %s%s", source, count(items, "item"), size)
}

func (l *logMonitor) Download(source string, p DownloadProgress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, running := l.told[source]
	if now := l.now(); running && now.Sub(last) >= logEvery {
		l.told[source] = now
		of := ""
		if p.Total > 0 {
			of = " of " + Bytes(p.Total)
		}
		l.print("%s: %s%s, %d of %d items", source, Bytes(p.Done), of, p.ItemsDone, p.Items)
	}
}

func (l *logMonitor) BeginBuild(int, int) {}

func (l *logMonitor) EndBuild(bool) {} // the caller sums up

func (l *logMonitor) EndDownload(source string, r DownloadResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	items := l.items[source]
	delete(l.told, source)
	delete(l.items, source)
	if r.Err != nil {
		l.print("%s: failed", source)
		return
	}
	l.print("%s: %d downloaded, %d cached", source, items-r.Cached, r.Cached)
}

func (l *logMonitor) BeginPipeline(p PipelineInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cached[p.Name] = p.Cached
	l.print("pipeline %s: %s, %d cached", p.Name, count(p.Stages, "stage"), p.Cached)
}

func (l *logMonitor) BeginStage(s StageInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.print("%s: %d/%d %s", s.Pipeline, s.Index+1, s.Count, s.Name)
}

func (l *logMonitor) StageOutput(s StageInfo, chunk []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	buf := append(l.rest[s], chunk...)
	var lines bytes.Buffer // one write for all
	for {
		line, rest, ok := bytes.Cut(buf, []byte("\n"))
		if !ok && len(buf) <= maxLine {
			break
		}
		lines.WriteString("    " + ansi.Line(line) + "\n")
		buf = rest
	}
	l.rest[s] = append([]byte(nil), buf...)
	if lines.Len() > 0 && !l.closed {
		_, _ = l.w.Write(lines.Bytes())
	}
}

func (l *logMonitor) EndStage(s StageInfo, r StageResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rest := l.rest[s]; len(rest) > 0 {
		l.print("    %s", ansi.Line(rest))
	}
	delete(l.rest, s)
	if r.Cached && r.Success && s.Index < l.cached[s.Pipeline] {
		return // BeginPipeline has told
	}
	state := "done in " + Seconds(r.Duration)
	switch {
	case !r.Success:
		state = "failed after " + Seconds(r.Duration)
	case r.Cached:
		state = "cached"
	}
	l.print("%s: %d/%d %s: %s", s.Pipeline, s.Index+1, s.Count, s.Name, state)
}

func (l *logMonitor) EndPipeline(string, bool) {} // its last stage has said it

func (l *logMonitor) Waiting(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.print("waiting: %s", what)
}

func (l *logMonitor) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
