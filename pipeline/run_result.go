package pipeline

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/seccomp"
	"github.com/ossify/ossify/store"
	"golang.org/x/sys/unix"
)

// Result is what a build did. It is complete for what ran, also after an error.
type Result struct {
	// Pipelines that were looked at, in the manifest's order.
	Pipelines []*PipelineResult
	// Sources that were asked for content.
	Sources []*SourceResult
	// Transfers are those from and to registries.
	Transfers []Transfer
}

// PipelineResult is what became of one pipeline.
type PipelineResult struct {
	Pipeline *Pipeline
	Stages   []*StageResult
	// Tree is what the pipeline has made, if it has stages and all of them
	// succeeded.
	Tree *store.Layer
}

// Tree is what that pipeline has made, nil if it was not built.
func (r *Result) Tree(p *Pipeline) *store.Layer {
	for _, pr := range r.Pipelines {
		if pr.Pipeline == p {
			return pr.Tree
		}
	}
	return nil
}

// StageResult is what became of one stage.
type StageResult struct {
	Stage *Stage
	// Cached says that the stage's checkpoint was there already.
	Cached   bool
	Success  bool
	Duration time.Duration
	// Output is the end of what the stage printed.
	Output string
	// Error is what the module reported, or nil.
	Error *sandbox.StageError
	// Refused are system calls that it made and may not.
	Refused  []seccomp.Refused
	Metadata json.RawMessage
}

// SourceResult is what became of one source.
type SourceResult struct {
	Source *Source
	// Items asked for, and how many of them were in the store already.
	Items, Cached int
	// Results as the source returned them.
	Results  []json.RawMessage
	Err      error
	Duration time.Duration
}

// StageFailed is the error of a stage that ran and failed.
type StageFailed struct {
	Result *StageResult
	// Status is the module's exit status.
	Status int
}

// lastSignal is the highest number of a signal (signal(7), SIGRTMAX).
const lastSignal = 64

// Error says which stage failed and why, in one line.
func (e *StageFailed) Error() string {
	if refused := e.Result.Refused; len(refused) > 0 {
		return fmt.Sprintf("%s; it called %s, which stages may not", e.reason(), seccomp.List(refused))
	}
	return e.reason()
}

func (e *StageFailed) reason() string {
	s := e.Result.Stage
	msg := fmt.Sprintf("pipeline %q: stage %d (%s) failed", s.Pipeline.Name, s.Index, s.Name)
	switch {
	case e.Result.Error != nil && e.Result.Error.Value != "":
		return msg + ": " + e.Result.Error.Value
	case e.Result.Error != nil && e.Result.Error.Type != "":
		return msg + ": " + e.Result.Error.Type // Python's "assert" has no value
	case e.Status == 128+int(unix.SIGKILL):
		return fmt.Sprintf("%s: killed by signal %d, as the kernel does when there is no memory left", msg, e.Status-128)
	case e.Status > 128 && e.Status <= 128+lastSignal:
		return fmt.Sprintf("%s: killed by signal %d", msg, e.Status-128)
	}
	// A program that cannot be started leaves this to the container.
	if last := e.Result.LastLines(1); e.Status == 255 && len(last) == 1 && strings.HasPrefix(last[0], "exec /run/osbuild/") {
		return fmt.Sprintf("%s: it cannot be started in its build root: %s; what its first line names, or its dynamic loader, must be in the build root", msg, last[0])
	}
	return fmt.Sprintf("%s: exit status %d", msg, e.Status)
}

// told is what a monitor gets of the result.
func (r *StageResult) told() monitor.StageResult {
	told := monitor.StageResult{
		Success: r.Success, Duration: r.Duration, Options: r.Stage.Options, Metadata: r.Metadata, Output: r.Output,
	}
	if r.Error != nil {
		told.Error = r.Error
	}
	if string(told.Options) == "{}" {
		told.Options = nil
	}
	return told
}

// LastLines returns the last n lines of a stage's output, for a message.
func (r *StageResult) LastLines(n int) []string {
	text := strings.TrimRight(r.Output, "\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return lines
}
