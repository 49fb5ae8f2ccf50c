// Package monitor shows what a build does: live on a terminal, as plain lines
// for a log, or not at all. A Monitor is a value that is passed to where
// progress is made; there is no global one.
package monitor

import (
	"encoding/json"
	"time"
)

// Monitor is told what happens. All methods are safe for concurrent use.
type Monitor interface {
	// Log is a line for the user.
	Log(text string)
	// BeginBuild comes first: so many pipelines and sources are looked at.
	BeginBuild(pipelines, sources int)
	// EndBuild comes last.
	EndBuild(success bool)
	// BeginDownload starts a source; bytes is 0 if the size is unknown.
	BeginDownload(source string, items int, bytes int64)
	// Download tells how far a source is.
	Download(source string, p DownloadProgress)
	// EndDownload ends a source.
	EndDownload(source string, r DownloadResult)
	// BeginPipeline starts a pipeline.
	BeginPipeline(p PipelineInfo)
	// BeginStage starts a stage that was not cached.
	BeginStage(s StageInfo)
	// StageOutput is a piece of what a running stage prints, of any length.
	StageOutput(s StageInfo, chunk []byte)
	// EndStage ends a stage; for a cached one there was no BeginStage.
	EndStage(s StageInfo, r StageResult)
	// EndPipeline ends a pipeline.
	EndPipeline(name string, success bool)
	// Waiting says what the build waits for.
	Waiting(what string)
	// Close ends the display; later calls do nothing.
	Close() error
}

// DownloadProgress is how far a source is. Sizes are in bytes, 0 if unknown.
type DownloadProgress struct {
	ItemsDone, Items int
	Done, Total      int64
}

// DownloadResult is how a source ended: Cached of its items were there already,
// Results are what the source said of each.
type DownloadResult struct {
	Cached   int
	Err      error
	Results  []json.RawMessage
	Duration time.Duration
}

// PipelineInfo names a pipeline; Cached of its Stages need not run.
type PipelineInfo struct {
	Name, ID       string
	Stages, Cached int
}

// StageInfo names a stage; Index counts from 0.
type StageInfo struct {
	Pipeline, Name, ID string
	Index, Count       int
}

// StageResult is how a stage ended.
type StageResult struct {
	Cached, Success bool
	Duration        time.Duration
	// Options are the manifest's, Metadata is the stage's own.
	Options, Metadata json.RawMessage
	// Output is the end of what the stage printed.
	Output string
	// Error is what the module reported, to be written as JSON, or nil.
	Error any
}

// Null is a Monitor that shows nothing.
type Null struct{}

// Log does nothing.
func (Null) Log(string) {}

// BeginBuild does nothing.
func (Null) BeginBuild(int, int) {}

// EndBuild does nothing.
func (Null) EndBuild(bool) {}

// BeginDownload does nothing.
func (Null) BeginDownload(string, int, int64) {}

// Download does nothing.
func (Null) Download(string, DownloadProgress) {}

// EndDownload does nothing.
func (Null) EndDownload(string, DownloadResult) {}

// BeginPipeline does nothing.
func (Null) BeginPipeline(PipelineInfo) {}

// BeginStage does nothing.
func (Null) BeginStage(StageInfo) {}

// StageOutput does nothing.
func (Null) StageOutput(StageInfo, []byte) {}

// EndStage does nothing.
func (Null) EndStage(StageInfo, StageResult) {}

// EndPipeline does nothing.
func (Null) EndPipeline(string, bool) {}

// Waiting does nothing.
func (Null) Waiting(string) {}

// Close does nothing.
func (Null) Close() error { return nil }
