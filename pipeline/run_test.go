package pipeline

import (
	"bytes"
	"strings"
	"testing"
)

// TestCapture: the end of the output is kept, all of it is handed on.
func TestCapture(t *testing.T) {
	b := &builder{}
	total := 0
	for i := range 40 {
		handed := 0
		c := &capture{max: maxOutput, tee: func(p []byte) { handed += len(p) }}
		chunk := bytes.Repeat([]byte("x"), 1<<20)
		for range 10 {
			if n, err := c.Write(chunk); n != len(chunk) || err != nil {
				t.Fatal(n, err)
			}
		}
		if _, err := c.Write([]byte("the\xff end")); err != nil {
			t.Fatal(err)
		}
		text := b.keep(c)
		total += len(text)
		if !strings.HasPrefix(text, "[...]\n") || !strings.HasSuffix(text, "the\ufffd end") || handed != 10<<20+8 {
			t.Errorf("%d: %d bytes of %d", i, len(text), handed)
		}
	}
	if total > maxOutputs+maxOutput+40*(minOutput+20) {
		t.Errorf("%d bytes are kept of all", total)
	}
}

func TestStageFailed(t *testing.T) {
	stage := &Stage{Name: "org.test.stage", Index: 3, Pipeline: &Pipeline{Name: "os"}}
	for status, want := range map[int]string{
		1:   "exit status 1",
		128: "exit status 128",
		137: "killed by signal 9, as the kernel does when there is no memory left",
		192: "killed by signal 64",
		255: "exit status 255",
	} {
		err := &StageFailed{Result: &StageResult{Stage: stage}, Status: status}
		if got := err.Error(); !strings.HasSuffix(got, want) {
			t.Errorf("status %d: %s, want %s", status, got, want)
		}
	}
}
