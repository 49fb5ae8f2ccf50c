package monitor

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestJSONSeq(t *testing.T) {
	var out bytes.Buffer
	m := NewJSONSeq(&out, "m.json")
	m.(*jsonSeq).now = func() time.Time { return time.UnixMicro(1500000) }
	m.BeginBuild(1, 1)
	m.BeginDownload("org.osbuild.curl", 2, 0)
	m.EndDownload("org.osbuild.curl", DownloadResult{Results: []json.RawMessage{[]byte(`{"success":true}`)}, Duration: time.Second})
	m.BeginPipeline(PipelineInfo{Name: "os", ID: "id", Stages: 14})
	m.BeginStage(hostname)
	// A character comes in two pieces; one that never ends is replaced.
	m.StageOutput(hostname, []byte("gr\xc3"))
	m.StageOutput(hostname, []byte("\xbc\xc3\x9fe\xe2\x82"))
	m.EndStage(hostname, StageResult{Success: true, Duration: 2 * time.Second, Output: strings.Repeat("\u00e9", 20000), Options: []byte(`{"hostname":"x"}`)})
	m.EndPipeline("os", true)
	m.EndBuild(true)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m.Log("late")
	var got []string
	for _, text := range strings.Split(out.String(), "\x1e")[1:] {
		var r seqRecord
		if err := json.Unmarshal([]byte(text), &r); err != nil || r.Timestamp != 1.5 || !strings.HasSuffix(text, "}\n") {
			t.Fatalf("%v in %q", err, text)
		}
		got = append(got, r.Message)
		if r.Message != "Finished module "+hostname.Name {
			continue
		}
		output := r.Result.(map[string]any)["output"].(string)
		if !strings.HasPrefix(output, "[...9000 bytes hidden...]\n\u00e9") || len(output) > maxResult+100 {
			t.Errorf("output: %.40q, %d bytes", output, len(output))
		}
		if string(r.Options) != `{"hostname":"x"}` || r.Duration != 2 || r.Progress.Sub.Done != 1 || r.Progress.Done != 1 || r.Progress.Total != 2 {
			t.Errorf("record: %+v", r)
		}
	}
	want := []string{"starting m.json", "Starting pipeline source org.osbuild.curl", "Finished module source org.osbuild.curl",
		"Finished pipeline org.osbuild.curl", "Starting pipeline os", "Starting module " + hostname.Name, "gr", "\u00fc\u00dfe", "\ufffd\ufffd",
		"Finished module " + hostname.Name, "Finished pipeline os", "manifest m.json finished successfully\n"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", got, want)
	}
}
