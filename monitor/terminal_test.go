package monitor

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

// bench is a terminal monitor with a clock and a screen of the test's.
type bench struct {
	*terminal
	screen *screen
	clock  time.Time
	height int
	writes int
}

func newBench(t *testing.T, width, height int) *bench {
	b := &bench{screen: newScreen(t, width), clock: time.Unix(1000, 0), height: height}
	b.terminal = &terminal{
		write:  func(text string) { b.writes++; b.screen.write(text) },
		size:   func() (int, int) { return b.screen.width, b.height },
		now:    func() time.Time { return b.clock },
		style:  style{glyphs: unicodeGlyphs},
		cached: map[string]int{},
		stop:   make(chan struct{}), stopped: make(chan struct{}),
	}
	close(b.stopped)
	return b
}

func (b *bench) expect(t *testing.T, want string) {
	t.Helper()
	b.draw()
	if got := b.screen.String(); got != want {
		t.Errorf("screen:\n%s\nwant:\n%s", got, want)
	}
	if !b.screen.cursor || !b.screen.wrap {
		t.Errorf("left behind: cursor shown %v, wrap on %v", b.screen.cursor, b.screen.wrap)
	}
}

var (
	dpkg     = StageInfo{Pipeline: "os", Name: "org.ossify.dpkg", ID: "a", Index: 0, Count: 14}
	hostname = StageInfo{Pipeline: "os", Name: "org.osbuild.hostname", ID: "b", Index: 1, Count: 14}
	build    = StageInfo{Pipeline: "build", Name: "org.osbuild.noop", ID: "c", Index: 0, Count: 1}
)

func TestTerminalBuild(t *testing.T) {
	b := newBench(t, 100, 24)
	b.BeginDownload("org.osbuild.curl", 143, 83<<20)
	b.BeginPipeline(PipelineInfo{Name: "build", Stages: 1})
	b.BeginPipeline(PipelineInfo{Name: "os", Stages: 14})
	b.BeginStage(dpkg)
	b.BeginStage(build)
	b.clock = b.clock.Add(2 * time.Second)
	b.Download("org.osbuild.curl", DownloadProgress{ItemsDone: 40, Items: 143, Done: 33 << 20, Total: 83 << 20})
	b.StageOutput(dpkg, []byte("Unpacking libc6\n\nSetting up lib"))
	b.expect(t, `
⠋ build   1/1  org.osbuild.noop            2.0s
⠋ os     1/14  org.ossify.dpkg             2.0s  Setting up lib
⠋ org.osbuild.curl  ━━━━━━━━━━━───────────────────  33.0 MiB of 83.0 MiB  40/143  16.5 MiB/s  2.0s
`[1:])

	b.EndDownload("org.osbuild.curl", DownloadResult{Cached: 3})
	b.EndStage(build, StageResult{Success: true, Duration: 30 * time.Millisecond})
	b.StageOutput(dpkg, []byte("c6 (2.36)\r\n"))
	b.Log("two\nlines \x1b[31mred\a\n")
	b.Waiting("another build")
	b.expect(t, `
✓ org.osbuild.curl  140 downloaded, 3 cached  2.00s
✓ build   1/1  org.osbuild.noop            0.03s
two
lines red
… waiting: another build
⠋ os     1/14  org.ossify.dpkg             2.0s  Setting up libc6 (2.36)
`[1:])

	b.EndStage(dpkg, StageResult{Success: true, Duration: 83 * time.Second})
	b.BeginStage(hostname)
	b.EndStage(hostname, StageResult{Duration: time.Second})
	b.EndPipeline("os", false)
	b.BeginStage(hostname) // still running at the end
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.Log("after the end")
	b.expect(t, `
✓ org.osbuild.curl  140 downloaded, 3 cached  2.00s
✓ build   1/1  org.osbuild.noop            0.03s
two
lines red
… waiting: another build
✓ os     1/14  org.ossify.dpkg             1m23s
✗ os     2/14  org.osbuild.hostname        1.00s
`[1:])
	if err := b.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestTerminalCached(t *testing.T) {
	b := newBench(t, 80, 24)
	b.BeginPipeline(PipelineInfo{Name: "os", Stages: 14, Cached: 1})
	b.EndStage(dpkg, StageResult{Cached: true, Success: true})     // told already
	b.EndStage(hostname, StageResult{Cached: true, Success: true}) // by another build, meanwhile
	b.BeginDownload("org.osbuild.curl", 1, 0)
	b.EndDownload("org.osbuild.curl", DownloadResult{Cached: 1})
	b.BeginDownload("org.osbuild.inline", 1, 0)
	b.EndDownload("org.osbuild.inline", DownloadResult{Cached: 0, Err: errors.New("told by the caller")})
	b.expect(t, `
● os  1 of 14 stages cached
● os  2/14  org.osbuild.hostname        cached
● org.osbuild.curl  1 item cached
✗ org.osbuild.inline
`[1:])
}

// Nothing is written when there is nothing new, and what is new in one write.
func TestTerminalWrites(t *testing.T) {
	b := newBench(t, 80, 24)
	b.BeginStage(dpkg)
	b.Log("one")
	b.Log("two")
	b.draw()
	b.draw()
	if b.writes != 1 {
		t.Errorf("%d writes, want 1", b.writes)
	}
}

func TestTerminalNarrow(t *testing.T) {
	for width := 1; width < 120; width++ {
		b := newBench(t, width, 10)
		b.BeginPipeline(PipelineInfo{Name: "os", Stages: 14})
		b.BeginDownload("org.osbuild.curl", 143, 83<<20)
		b.BeginStage(dpkg)
		b.StageOutput(dpkg, []byte(strings.Repeat("long ", 50)))
		b.clock = b.clock.Add(time.Second)
		b.Download("org.osbuild.curl", DownloadProgress{ItemsDone: 4, Items: 143, Done: 1 << 20})
		for range 3 {
			b.turn++
			b.draw() // the screen fails on lines that do not fit
		}
		if rows := strings.Count(b.screen.String(), "\n"); rows != 2 && width > 2 {
			t.Errorf("width %d: %d rows:\n%s", width, rows, b.screen)
		}
	}
	b := newBench(t, 40, 10)
	b.BeginStage(dpkg)
	b.StageOutput(dpkg, []byte("Setting up libc6"))
	b.expect(t, "⠋ org.ossify.dpkg  0.0s  Setting up li…\n")
}

func TestTerminalShort(t *testing.T) {
	b := newBench(t, 80, 4)
	for i := range 5 {
		b.BeginStage(StageInfo{Pipeline: string(rune('a' + i)), Name: "stage", Count: 1})
	}
	b.expect(t, `
⠋ a   1/1  stage                       0.0s
⠋ b   1/1  stage                       0.0s
  and 3 more
`[1:])
	b.height = 1
	b.expect(t, "\n")
}

func TestTerminalResize(t *testing.T) {
	b := newBench(t, 100, 24)
	b.BeginPipeline(PipelineInfo{Name: "os", Stages: 14})
	b.BeginStage(dpkg)
	b.StageOutput(dpkg, []byte(strings.Repeat("x", 200)))
	b.Log("stays")
	b.draw()
	b.screen.resize(30)
	b.expect(t, "stays\n⠋ org.ossify.dpkg  0.0s\n")
	b.screen.resize(70)
	b.expect(t, "stays\n⠋ os  1/14  org.ossify.dpkg             0.0s  "+strings.Repeat("x", 22)+"…\n")
}

func TestRate(t *testing.T) {
	start := time.Unix(0, 0)
	a := &activity{source: "s", start: start}
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	if got := a.rate(at(0.1)); got != 0 {
		t.Errorf("at the start: %d", got)
	}
	// 100 bytes a second for ten seconds, then 10.
	for i := 1; i <= 10; i++ {
		a.advance(DownloadProgress{Done: int64(100 * i)}, at(float64(i)))
	}
	if got := a.rate(at(10)); got != 100 {
		t.Errorf("steady: %d, want 100", got)
	}
	for i := 1; i <= 10; i++ {
		a.advance(DownloadProgress{Done: int64(1000 + 10*i)}, at(float64(10+i)))
	}
	if got := a.rate(at(20)); got != 10 {
		t.Errorf("after it slowed down: %d, want 10", got)
	}
	if got := a.rate(at(40)); got != 2 {
		t.Errorf("after a stall of 20 s: %d, want 2", got)
	}
}

func TestGlyphs(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		done string
	}{
		{map[string]string{"TERM": "xterm"}, "✓"},
		{map[string]string{"TERM": "xterm", "LANG": "de_DE.UTF-8"}, "✓"},
		{map[string]string{"TERM": "xterm", "LANG": "en_US.utf8"}, "✓"},
		{map[string]string{"TERM": "linux", "LANG": "de_DE.UTF-8"}, "+"},
		{map[string]string{"TERM": "xterm", "LANG": "C"}, "+"},
		{map[string]string{"TERM": "xterm", "LANG": "C.UTF-8", "LC_ALL": "C"}, "+"},
		{map[string]string{"TERM": "xterm", "LANG": "C", "LC_CTYPE": "C.UTF-8"}, "✓"},
	} {
		g := glyphsFor(func(name string) string { return c.env[name] })
		if g.done != c.done {
			t.Errorf("%v: %s", c.env, g.done)
		}
	}
}

// TestTerminalWildProgress: what a source says of itself is foreign.
func TestTerminalWildProgress(t *testing.T) {
	const most = math.MaxInt64
	b := newBench(t, 100, 24)
	b.BeginDownload("org.test.wild", 3, 0)
	for _, p := range []DownloadProgress{
		{Done: most, Total: most}, {Done: 1 << 62, Total: 1 << 62}, {Done: most, Total: 1}, {Done: -5, Total: 1}, {Done: -1, Total: most}, {Done: -most, Total: 1},
		{Done: 1, Total: -1}, {ItemsDone: most, Items: most}, {ItemsDone: -most, Items: 1}, {ItemsDone: 5, Items: -1},
	} {
		b.clock = b.clock.Add(time.Second)
		b.Download("org.test.wild", p)
		b.draw()
		if rows := strings.Count(b.screen.String(), "\n"); rows > 1 {
			t.Errorf("%+v: %d rows", p, rows)
		}
	}
	// Many at once are not many samples.
	for range 100000 {
		b.Download("org.test.wild", DownloadProgress{Done: 1, Total: 2})
	}
	if a := b.find("org.test.wild", StageInfo{}); len(a.samples) > 100 {
		t.Errorf("%d samples are kept", len(a.samples))
	}
}
