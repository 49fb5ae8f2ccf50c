package monitor

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ossify/ossify/test/pty"
)

// onPTY runs use with a monitor on a real terminal and returns what it wrote.
func onPTY(t *testing.T, use func(Monitor)) string {
	t.Helper()
	master, slave := pty.Open(t)
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&out, master) // ends with EIO when the other end is closed
	}()
	m := NewTerminal(slave)
	use(m)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := slave.Close(); err != nil {
		t.Error(err)
	}
	<-read
	return out.String()
}

// Many pipelines and a download at once, on a real terminal: every end is told
// once, and the terminal is left as it was.
func TestTerminalConcurrent(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	t.Setenv("NO_COLOR", "")
	t.Setenv("LC_ALL", "C.UTF-8")
	const pipelines, stages = 6, 20
	out := onPTY(t, func(m Monitor) {
		if _, ok := m.(*terminal); !ok {
			t.Fatalf("got a %T", m)
		}
		var group sync.WaitGroup
		group.Go(func() {
			m.BeginDownload("curl", 100, 1000)
			for i := range 100 {
				m.Download("curl", DownloadProgress{ItemsDone: i, Items: 100, Done: int64(10 * i), Total: 1000})
				time.Sleep(5 * time.Millisecond) // lets the display draw in between
			}
			m.EndDownload("curl", DownloadResult{Cached: 0})
		})
		for p := range pipelines {
			group.Go(func() {
				name := fmt.Sprintf("p%d", p)
				m.BeginPipeline(PipelineInfo{Name: name, Stages: stages})
				for i := range stages {
					s := StageInfo{Pipeline: name, Name: fmt.Sprintf("stage-%d-%d.", p, i), Index: i, Count: stages}
					m.BeginStage(s)
					m.StageOutput(s, []byte("working\n"))
					m.Log(fmt.Sprintf("line %d %d.", p, i))
					m.EndStage(s, StageResult{Success: true})
				}
				m.EndPipeline(name, true)
			})
		}
		group.Wait()
	})
	screen := newScreen(t, 100)
	screen.write(out)
	text := screen.String()
	for p := range pipelines {
		for i := range stages {
			for _, want := range []string{fmt.Sprintf("stage-%d-%d.", p, i), fmt.Sprintf("line %d %d.", p, i)} {
				if n := strings.Count(text, want); n != 1 {
					t.Errorf("%q is %d times on the screen", want, n)
				}
			}
		}
	}
	if rows := strings.Count(text, "\n"); rows != 2*pipelines*stages+1 {
		t.Errorf("%d rows:\n%s", rows, text)
	}
	if !screen.cursor || !screen.wrap {
		t.Error("the terminal was not restored")
	}
	if !strings.Contains(out, "\x1b[32m✓\x1b[0m") {
		t.Errorf("no colour: %q", out)
	}
}

func TestTerminalEnvironment(t *testing.T) {
	use := func(m Monitor) {
		m.BeginStage(dpkg)
		m.EndStage(dpkg, StageResult{Success: true})
	}
	t.Setenv("LC_ALL", "C.UTF-8")
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	out := onPTY(t, use)
	if strings.Contains(out, "m✓") || !strings.Contains(out, "✓ os") {
		t.Errorf("with NO_COLOR: %q", out)
	}
	for _, kind := range []string{"dumb", ""} {
		t.Setenv("TERM", kind)
		if out := onPTY(t, use); out != "os: 1/14 org.ossify.dpkg\r\nos: 1/14 org.ossify.dpkg: done in 0.00s\r\n" {
			t.Errorf("with TERM=%q: %q", kind, out)
		}
	}
	t.Setenv("TERM", "xterm")
	file, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if m, ok := NewTerminal(file).(*logMonitor); !ok {
		t.Errorf("on a file: got a %T", m)
	}
}
