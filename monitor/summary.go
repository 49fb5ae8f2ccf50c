package monitor

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// SummaryData is what Summary tells.
type SummaryData struct {
	Stages    []SummaryStage // in the order of their pipelines
	Downloads []SummaryDownload
	Total     time.Duration // of the whole build, on the clock
}

// SummaryStage is a stage of the summary.
type SummaryStage struct {
	Pipeline, Name  string
	Cached, Success bool
	Duration        time.Duration
}

// SummaryDownload is a source of the summary; Cached of its Items were in the
// store before.
type SummaryDownload struct {
	Source        string
	Items, Cached int
	Duration      time.Duration
}

// Summary writes how long each stage took, what was cached, what was downloaded
// and the total. Errors of w are not reported: there is nowhere to tell them.
func Summary(w io.Writer, s SummaryData) {
	width := 0
	for _, st := range s.Stages {
		width = max(width, len(st.Name))
	}
	for _, d := range s.Downloads {
		width = max(width, len(d.Source)-2)
	}
	var out strings.Builder
	pipeline, ran, cached, failed := "", 0, 0, 0
	for _, st := range s.Stages {
		if st.Pipeline != pipeline {
			pipeline = st.Pipeline
			fmt.Fprintf(&out, "%s\n", pipeline)
		}
		state := "cached"
		switch {
		case !st.Success:
			failed++
			state = "failed after " + Seconds(st.Duration)
		case st.Cached:
			cached++
		default:
			ran++
			state = Seconds(st.Duration)
		}
		fmt.Fprintf(&out, "  %-*s  %8s\n", width, st.Name, state)
	}
	for _, d := range s.Downloads {
		fmt.Fprintf(&out, "%-*s  %8s  %d downloaded, %d cached\n", width+2, d.Source, Seconds(d.Duration), d.Items-d.Cached, d.Cached)
	}
	fmt.Fprintf(&out, "stages: %d ran, %d cached", ran, cached)
	if failed > 0 {
		fmt.Fprintf(&out, ", %d failed", failed)
	}
	fmt.Fprintf(&out, "; %s in all\n", Seconds(s.Total))
	_, _ = io.WriteString(w, out.String())
}
