package monitor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ossify/ossify/pyjson"
)

// maxResult is how many bytes of a module's output, or of a source's results,
// are repeated in its last record: readers have limits to the length of a line.
const maxResult = 31000

// Origins of records, as osbuild's readers know them.
const (
	originMain    = "osbuild.main_cli"
	originMonitor = "osbuild.monitor"
)

// jsonSeq writes records for programs (RFC 7464), of the form of osbuild's
// JSONSeqMonitor (osbuild/monitor.py). Pipelines that run at the same time each
// have a progress of their own below the build's.
type jsonSeq struct {
	mu       sync.Mutex
	w        io.Writer
	manifest string
	now      func() time.Time
	total    int
	done     int
	parts    map[string]*seqProgress // of each running pipeline, by name
	ids      map[string]string       // of pipelines and sources, by name
	told     map[string]bool         // contexts that were written in full
	rest     map[StageInfo][]byte    // the beginning of a character
	closed   bool
}

// NewJSONSeq returns a Monitor that writes records about the build of a manifest
// to w, which stays the caller's.
func NewJSONSeq(w io.Writer, manifest string) Monitor {
	return &jsonSeq{
		w: w, manifest: manifest, now: time.Now, parts: map[string]*seqProgress{},
		ids: map[string]string{}, told: map[string]bool{}, rest: map[StageInfo][]byte{},
	}
}

type seqProgress struct {
	Name  string       `json:"name"`
	Total int          `json:"total"`
	Done  int          `json:"done"`
	Sub   *seqProgress `json:"progress,omitempty"`
}

type seqContext struct {
	ID       string       `json:"id"`
	Origin   string       `json:"origin,omitempty"`
	Pipeline *seqPipeline `json:"pipeline,omitempty"`
}

type seqPipeline struct {
	Name  string   `json:"name,omitempty"`
	ID    string   `json:"id,omitempty"`
	Stage seqStage `json:"stage"`
}

type seqStage struct {
	Name string `json:"name,omitempty"`
	ID   string `json:"id,omitempty"`
}

type seqRecord struct {
	Message   string          `json:"message,omitempty"`
	Result    any             `json:"result,omitempty"`
	Context   seqContext      `json:"context"`
	Progress  seqProgress     `json:"progress"`
	Options   json.RawMessage `json:"options,omitempty"`
	Timestamp float64         `json:"timestamp"`
	Duration  float64         `json:"duration,omitempty"`
	Metadata  json.RawMessage `json:"metadata,omitempty"`
}

// write fills in what all records have and writes r; the caller holds the lock.
func (j *jsonSeq) write(origin, pipeline string, stage seqStage, r seqRecord) {
	if j.closed {
		return
	}
	p := seqPipeline{Name: pipeline, ID: j.ids[pipeline], Stage: stage}
	r.Context.ID = contextID(origin, &p)
	if !j.told[r.Context.ID] {
		j.told[r.Context.ID] = true
		r.Context.Origin, r.Context.Pipeline = origin, &p
	}
	r.Progress = seqProgress{Name: "pipelines/sources", Total: j.total, Done: j.done, Sub: j.parts[pipeline]}
	r.Timestamp = float64(j.now().UnixMicro()) / 1e6
	if data, err := json.Marshal(r); err == nil {
		_, _ = fmt.Fprintf(j.w, "\x1e%s\n", data)
	}
}

// contextID is the sha256 of the context as Python writes it as JSON, which is
// osbuild's id of it.
func contextID(origin string, p *seqPipeline) string {
	null := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	sum := sha256.Sum256(pyjson.Dumps(map[string]any{"origin": origin, "pipeline": map[string]any{
		"name": null(p.Name), "id": null(p.ID), "stage": map[string]any{"name": null(p.Stage.Name), "id": null(p.Stage.ID)},
	}}, true))
	return hex.EncodeToString(sum[:])
}

func (j *jsonSeq) say(origin, pipeline string, stage seqStage, message string) {
	if message != "" {
		j.write(origin, pipeline, stage, seqRecord{Message: message})
	}
}

// Log writes the text as a record.
func (j *jsonSeq) Log(text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.say(originMain, "", seqStage{}, text)
}

func (j *jsonSeq) BeginBuild(pipelines, sources int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.total = pipelines + sources
	j.say(originMain, "", seqStage{}, "starting "+j.manifest)
}

func (j *jsonSeq) EndBuild(success bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	how := "failed"
	if success {
		how = "finished successfully"
	}
	j.say(originMain, "", seqStage{}, "manifest "+j.manifest+" "+how+"\n")
}

// sourceName is what osbuild calls a source among the pipelines.
func sourceName(source string) string { return "source " + source }

func (j *jsonSeq) BeginDownload(source string, _ int, _ int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.say(originMonitor, sourceName(source), seqStage{}, "Starting pipeline "+sourceName(source))
}

func (j *jsonSeq) Download(string, DownloadProgress) {} // osbuild has no record of it

func (j *jsonSeq) EndDownload(source string, r DownloadResult) {
	j.mu.Lock()
	defer j.mu.Unlock()
	name := sourceName(source)
	result := struct {
		Name    string            `json:"name"`
		Type    string            `json:"source_type"`
		Success bool              `json:"success"`
		Output  string            `json:"output"`
		Results []json.RawMessage `json:"results"`
	}{name, source, r.Err == nil, name + " finished successfully", []json.RawMessage{}}
	if r.Err != nil {
		result.Output = fmt.Sprintf("%s finished unsuccessfully: %v", name, r.Err)
	}
	size := 0
	for _, item := range r.Results {
		size += len(item)
	}
	if size <= maxResult && r.Results != nil {
		result.Results = r.Results
	}
	j.write(originMonitor, name, seqStage{}, seqRecord{Message: "Finished module " + name, Result: result, Duration: r.Duration.Seconds()})
	j.done++
	j.say(originMonitor, name, seqStage{}, "Finished pipeline "+source)
}

func (j *jsonSeq) BeginPipeline(p PipelineInfo) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ids[p.Name] = p.ID
	if p.Stages > 0 {
		j.parts[p.Name] = &seqProgress{Name: "pipeline: " + p.Name, Total: p.Stages}
	}
	j.say(originMonitor, p.Name, seqStage{}, "Starting pipeline "+p.Name)
}

func (j *jsonSeq) BeginStage(s StageInfo) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.say(originMonitor, s.Pipeline, seqStage{s.Name, s.ID}, "Starting module "+s.Name)
}

func (j *jsonSeq) StageOutput(s StageInfo, chunk []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	text := append(j.rest[s], chunk...)
	end := len(text) - len(unfinished(text))
	j.rest[s] = append([]byte(nil), text[end:]...)
	j.say("stages/"+s.Name, s.Pipeline, seqStage{s.Name, s.ID}, string(text[:end]))
}

// unfinished returns the beginning of a character at the end of p, if there is one.
func unfinished(p []byte) []byte {
	for i := len(p) - 1; i >= 0 && i >= len(p)-utf8.UTFMax; i-- {
		if utf8.RuneStart(p[i]) {
			if utf8.FullRune(p[i:]) {
				return nil
			}
			return p[i:]
		}
	}
	return nil
}

func (j *jsonSeq) EndStage(s StageInfo, r StageResult) {
	j.mu.Lock()
	defer j.mu.Unlock()
	stage := seqStage{s.Name, s.ID}
	j.say("stages/"+s.Name, s.Pipeline, stage, string(j.rest[s]))
	delete(j.rest, s)
	if p := j.parts[s.Pipeline]; p != nil {
		p.Done++
	}
	if r.Cached {
		return // osbuild does not look at those
	}
	output := r.Output
	if n := len(output) - maxResult; n > 0 {
		for n < len(output) && !utf8.RuneStart(output[n]) {
			n++
		}
		output = fmt.Sprintf("[...%d bytes hidden...]\n%s", n, output[n:])
	}
	j.write(originMonitor, s.Pipeline, stage, seqRecord{
		Message: "Finished module " + s.Name,
		Result: struct {
			Name    string `json:"name"`
			ID      string `json:"id"`
			Success bool   `json:"success"`
			Output  string `json:"output,omitempty"`
			Error   any    `json:"error,omitempty"`
		}{s.Name, s.ID, r.Success, output, r.Error},
		Options: r.Options, Duration: r.Duration.Seconds(), Metadata: r.Metadata,
	})
}

func (j *jsonSeq) EndPipeline(name string, success bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.done++
	delete(j.parts, name)
	if success {
		j.say(originMonitor, name, seqStage{}, "Finished pipeline "+name)
	}
}

func (j *jsonSeq) Waiting(what string) { j.Log("waiting: " + what) }

// Close ends the records; w stays open.
func (j *jsonSeq) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	return nil
}
