package monitor

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestLog(t *testing.T) {
	var out bytes.Buffer
	clock := time.Unix(1000, 0)
	m := NewLog(&out)
	m.(*logMonitor).now = func() time.Time { return clock }
	const curl = "org.osbuild.curl"

	m.Log("building\nfor \x1b[1mos\x1b[0m")
	m.BeginDownload(curl, 143, 83<<20)
	m.Download(curl, DownloadProgress{ItemsDone: 1, Items: 143, Done: 1 << 20, Total: 83 << 20}) // too soon to tell
	clock = clock.Add(logEvery)
	m.Download(curl, DownloadProgress{ItemsDone: 2, Items: 143, Done: 2 << 20, Total: 83 << 20})
	m.BeginPipeline(PipelineInfo{Name: "os", Stages: 14, Cached: 1})
	m.EndStage(StageInfo{Pipeline: "os", Name: "org.osbuild.noop", Index: 0, Count: 14}, StageResult{Cached: true, Success: true})
	m.EndDownload(curl, DownloadResult{Cached: 3})
	m.Download(curl, DownloadProgress{}) // late
	m.BeginDownload("org.osbuild.inline", 1, 0)
	m.EndDownload("org.osbuild.inline", DownloadResult{Cached: 0, Err: errors.New("told by the caller")})
	m.BeginStage(hostname)
	m.BeginStage(build)
	m.StageOutput(hostname, []byte("first\r\n 10%\r 20%"))
	m.StageOutput(build, []byte("other\n"))
	m.StageOutput(hostname, []byte("\r100%\n\x1b[31mlast"))
	m.Waiting("another build")
	m.EndStage(build, StageResult{Success: true, Duration: 30 * time.Millisecond})
	m.EndStage(hostname, StageResult{Duration: 61 * time.Second})
	m.EndStage(dpkg, StageResult{Success: true, Cached: true}) // counted by BeginPipeline
	m.EndStage(StageInfo{Pipeline: "os", Name: "late", Index: 7, Count: 14}, StageResult{Success: true, Cached: true})
	m.EndPipeline("os", false)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m.Log("after the end")

	want := `
building
for os
org.osbuild.curl: 143 items, 83.0 MiB
org.osbuild.curl: 2.0 MiB of 83.0 MiB, 2 of 143 items
pipeline os: 14 stages, 1 cached
org.osbuild.curl: 140 downloaded, 3 cached
org.osbuild.inline: 1 item
org.osbuild.inline: failed
os: 2/14 org.osbuild.hostname
build: 1/1 org.osbuild.noop
    first
    other
    100%
waiting: another build
build: 1/1 org.osbuild.noop: done in 0.03s
    last
os: 2/14 org.osbuild.hostname: failed after 1m01s
os: 8/14 late: cached
`[1:]
	if got := out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// A line without an end is told in pieces, not held for ever.
func TestLogEndlessLine(t *testing.T) {
	var out bytes.Buffer
	m := NewLog(&out)
	for range 3 * maxLine / 1024 {
		m.StageOutput(dpkg, bytes.Repeat([]byte("x"), 1024))
	}
	m.EndStage(dpkg, StageResult{Success: true})
	if got := strings.Count(out.String(), "x"); got != 3*maxLine {
		t.Errorf("%d bytes told, want %d", got, 3*maxLine)
	}
	if held := len(m.(*logMonitor).rest); held != 0 {
		t.Errorf("%d stages held after their end", held)
	}
}

func TestSummary(t *testing.T) {
	var out bytes.Buffer
	Summary(&out, SummaryData{
		Stages: []SummaryStage{
			{Pipeline: "build", Name: "org.osbuild.noop", Cached: true, Success: true},
			{Pipeline: "os", Name: "org.ossify.dpkg", Success: true, Duration: 18400 * time.Millisecond},
			{Pipeline: "os", Name: "org.osbuild.hostname", Duration: 20 * time.Millisecond},
		},
		Downloads: []SummaryDownload{{Source: "org.osbuild.curl", Items: 143, Cached: 3, Duration: 7 * time.Second}},
		Total:     2 * time.Hour,
	})
	want := `
build
  org.osbuild.noop        cached
os
  org.ossify.dpkg          18.4s
  org.osbuild.hostname  failed after 0.02s
org.osbuild.curl           7.00s  140 downloaded, 3 cached
stages: 1 ran, 1 cached, 1 failed; 2h00m00s in all
`[1:]
	if got := out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 83 << 20: "83.0 MiB", 5 << 50: "5120.0 TiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", n, got, want)
		}
	}
}
