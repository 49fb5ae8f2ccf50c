package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/ossify/ossify/test/pty"
)

// hostileLib is a libdir of modules that misbehave and a store for them.
type hostileLib struct {
	t          *testing.T
	dir, store string
	// terminal, if not nil, gets standard error.
	terminal *os.File
}

func newHostileLib(t *testing.T) *hostileLib {
	t.Helper()
	h := &hostileLib{t: t, dir: workDir(t)}
	h.store = filepath.Join(h.dir, "store")
	size := os.Getenv("OSSIFY_TEST_PRINT") // in bytes
	if size == "" {
		size = fmt.Sprint(64 << 20)
	}
	h.write("lib/size", size)
	h.write("precious/file", "precious")
	h.write("lib/precious", filepath.Join(h.dir, "precious"))
	var services, stages []string
	for kind := range hostileServices {
		services = append(services, kind)
	}
	for kind := range hostileStages {
		stages = append(stages, kind)
	}
	for kind := range greed {
		stages = append(stages, kind)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for folder, kinds := range map[string][]string{"sources": services, "inputs": services, "stages": stages} {
		for _, kind := range kinds {
			h.link(exe, folder, kind)
		}
	}
	for _, folder := range []string{"sources", "inputs", "stages", "runners"} {
		h.module(folder, "mode", "#!/bin/sh\n", 0o644)
		h.module(folder, "interpreter", "#!/no/such/interpreter\n", 0o755)
		h.module(folder, "text", "hello\n", 0o755)
	}
	return h
}

func (h *hostileLib) write(path, text string) string {
	h.t.Helper()
	path = filepath.Join(h.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// hostileMeta describes a module that takes everything.
func hostileMeta(folder string) string {
	schema := `{"additionalProperties": true}`
	if folder == "stages" {
		schema = `{"options": {"type": "object"}, "inputs": {"type": "object"}}`
	}
	return `{"summary": "Misbehave", "description": [], "schema_2": ` + schema + `}`
}

func (h *hostileLib) module(folder, kind, text string, mode os.FileMode) {
	h.t.Helper()
	path := h.write(filepath.Join("lib", folder, "org.hostile."+kind), text)
	if err := os.Chmod(path, mode); err != nil {
		h.t.Fatal(err)
	}
	h.write(filepath.Join("lib", folder, "org.hostile."+kind+".meta.json"), hostileMeta(folder))
}

func (h *hostileLib) link(exe, folder, kind string) {
	h.t.Helper()
	meta := h.write(filepath.Join("lib", folder, "org.hostile."+kind+".meta.json"), hostileMeta(folder))
	if err := os.Symlink(exe, strings.TrimSuffix(meta, ".meta.json")); err != nil {
		h.t.Fatal(err)
	}
}

// manifest uses the module org.hostile.KIND of a family. Each has its own
// options, so that no stage of another test is taken from the store.
func (h *hostileLib) manifest(family, kind string) string {
	h.t.Helper()
	name := "org.hostile." + kind
	options := map[string]any{"test": h.t.Name()}
	stage := map[string]any{"type": "org.hostile.ok", "options": options}
	base := map[string]any{"name": "base", "stages": []any{map[string]any{"type": "org.osbuild.noop"}}}
	m := map[string]any{"version": "2"}
	switch family {
	case "source":
		sum := "sha256:" + strings.Repeat("0", 64)
		m["sources"] = map[string]any{name: map[string]any{"items": map[string]any{sum: map[string]any{}}}}
		stage["inputs"] = map[string]any{"files": map[string]any{"type": "org.hostile.descriptor", "origin": "org.osbuild.source", "references": []any{sum}}}
	case "input":
		stage["inputs"] = map[string]any{
			"first": map[string]any{"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": []any{"name:base"}},
			"odd":   map[string]any{"type": name, "origin": "org.osbuild.pipeline", "references": []any{"name:base"}},
		}
	case "stage":
		stage["type"] = name
	}
	m["pipelines"] = []any{base, map[string]any{"name": "tree", "stages": []any{
		map[string]any{"type": "org.osbuild.noop", "options": options}, stage, map[string]any{"type": "org.osbuild.noop"},
	}}}
	text, err := json.Marshal(m)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.write("m.json", string(text))
}

// outcome is how a run of ossify ended.
type outcome struct {
	status         int
	stdout, stderr string
	// maxRSS is of the largest process, in KiB.
	maxRSS int64
}

// output is a file for what ossify prints: in the memory of this process it would
// count as ossify's, which begins as a copy of it.
func (h *hostileLib) output(name string) *os.File {
	h.t.Helper()
	f, err := os.Create(filepath.Join(h.dir, name))
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

// text is what is in a file, or the beginning of much.
func (h *hostileLib) text(f *os.File) string {
	h.t.Helper()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(data)
}

// run runs ossify on the manifest and sees that it leaves nothing behind.
// interrupt, which may be nil, gets the running process.
func (h *hostileLib) run(manifest string, interrupt func(*os.Process), args ...string) outcome {
	h.t.Helper()
	// A build that hangs shall not hang the test.
	ctx, cancel := context.WithTimeout(h.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(h.t), append([]string{"--store", h.store, "--libdir", filepath.Join(h.dir, "lib")}, append(args, manifest)...)...)
	stdout, stderr := h.output("stdout"), h.output("stderr")
	defer stdout.Close()
	defer stderr.Close()
	if cmd.Stdout, cmd.Stderr = stdout, stderr; h.terminal != nil {
		cmd.Stderr = h.terminal
	}
	// What the user's shell has open is not for modules.
	open, err := os.Open(filepath.Join(h.dir, "precious/file"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer open.Close()
	cmd.ExtraFiles = []*os.File{open, open, open}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	if interrupt != nil {
		interrupt(cmd.Process)
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		h.t.Fatalf("the build hangs\n%s", h.text(stderr))
	}
	o := outcome{stdout: h.text(stdout), stderr: h.text(stderr)}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		o.status = exit.ExitCode()
	} else if err != nil {
		h.t.Fatal(err)
	}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		o.maxRSS = usage.Maxrss
	}
	if p := processes("org.hostile."); len(p) > 0 {
		h.t.Errorf("processes are left: %.300q", p)
	}
	left(h.t, h.store)
	if data, err := os.ReadFile(filepath.Join(h.dir, "precious/file")); err != nil || string(data) != "precious" {
		h.t.Errorf("a file of the user is gone: %q, %v", data, err)
	}
	return o
}

// expect sees that a run ended with the status and, if it failed, with one error
// that has all the words and nothing that a terminal would act on.
func (h *hostileLib) expect(o outcome, status int, words ...string) {
	h.t.Helper()
	if testing.Verbose() {
		h.t.Logf("rss %d KiB\n%.1500s", o.maxRSS, o.stderr)
	}
	if o.status != status {
		h.t.Errorf("status %d, want %d\n%.3000s", o.status, status, o.stderr)
	}
	for _, word := range words {
		if !strings.Contains(o.stderr, word) {
			h.t.Errorf("the error does not have %q:\n%.3000s", word, o.stderr)
		}
	}
	if n := strings.Count("\n"+o.stderr, "\nossify: "); n != min(status, 1) {
		h.t.Errorf("%d errors, want one:\n%.3000s", n, o.stderr)
	}
	for _, r := range o.stderr {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			h.t.Errorf("control character %q:\n%.3000q", r, o.stderr)
			break
		}
	}
	// Of a stage the log is above the error.
	if _, text, _ := strings.Cut("\n"+o.stderr, "\nossify: "); len(text) > 20000 {
		h.t.Errorf("the error has %d bytes", len(text))
	}
}

// TestHostileServices runs sources and inputs that misbehave in every way.
func TestHostileServices(t *testing.T) {
	h := newHostileLib(t)
	const protocol = "does not speak the protocol"
	h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
	both := []struct {
		kind   string
		status int
		words  []string
	}{
		{"mode", 1, []string{"permission denied", "chmod a+x"}},
		{"interpreter", 1, []string{"no such file or directory", "interpreter in its first line"}},
		{"text", 1, []string{"exec format error", "begins with #!"}},
		{"exit0", 1, []string{"ended without a reply (exit status 0)"}},
		{"exit1", 1, []string{"ended without a reply (exit status 1)", "it printed: no luck today"}},
		{"killed", 1, []string{"ended without a reply (signal: bad system call"}},
		{"exit1-after", 1, []string{"did its work but ended badly (exit status 3)"}},
		{"killed-after", 1, []string{"did its work but ended badly (signal: bad system call"}},
		{"garbage", 1, []string{protocol, "decode message"}},
		{"empty", 1, []string{protocol, "empty message"}},
		{"array", 1, []string{protocol, "a JSON array"}},
		{"string", 1, []string{protocol, "a JSON string"}},
		{"null", 1, []string{protocol, "no type"}},
		{"nodata", 1, []string{protocol, "no data"}},
		{"noreply", 1, []string{protocol, `no field "reply"`}},
		{"wrongtype", 1, []string{protocol, "a JSON number"}},
		{"method", 1, []string{protocol, `unknown type "method"`}},
		{"unknown", 1, []string{protocol, "unknown type"}},
		{"deep", 1, []string{protocol, "exceeded max depth"}},
		{"oversize", 1, []string{protocol, "104857600 bytes"}},
		{"exception", 1, []string{"Wild", "no luck"}},
		{"exception-shape", 1, []string{protocol, `a JSON array as "name"`}},
		{"exception-huge", 1, []string{"E: vvvv", "[...]"}},
		{"early", 0, nil},
		{"daemon", 0, nil},
		{"daemon-dies", 1, []string{"exit status 4"}},
		{"descriptor", 0, nil},
		{"descriptors", 0, nil},
		{"descriptors-only", 1, []string{protocol, "empty message"}},
		{"descriptors-own", 0, nil},
		{"print", 0, nil},
		{"print-fail", 1, []string{"exit status 5"}},
	}
	for _, c := range both {
		t.Run("source "+c.kind, func(t *testing.T) {
			h.t = t
			words := append([]string{"org.hostile." + c.kind, "source"}, c.words...)
			if c.status == 0 {
				words = nil
			}
			h.expect(h.run(h.manifest("source", c.kind), nil), c.status, words...)
		})
		t.Run("input "+c.kind, func(t *testing.T) {
			h.t = t
			words := append([]string{"org.hostile." + c.kind, `pipeline "tree": stage 1 (org.hostile.ok)`}, c.words...)
			if c.kind != "mode" { // that is seen before anything runs
				words = append(words, `input "odd"`)
			}
			if c.status == 0 {
				words = nil
			}
			h.expect(h.run(h.manifest("input", c.kind), nil), c.status, words...)
		})
	}
	for _, c := range []struct {
		kind   string
		status int
		words  []string
	}{
		{"path-etc", 1, []string{`"/etc"`, "not below its target"}},
		{"path-up", 1, []string{"not below its target"}},
		{"path-missing", 1, []string{"is not there"}},
		{"path-empty", 1, []string{"no path"}},
		{"path-link", 1, []string{"is not there"}},
		{"path-swapped", 1, []string{"put something else in its place"}},
		{"path-removed", 1, []string{"removed its target"}},
		{"mount-elsewhere", 0, nil},
		{"floods-store", 0, nil},
		{"mounts", 0, nil},
	} {
		t.Run("input "+c.kind, func(t *testing.T) {
			h.t = t
			words := c.words
			if c.status != 0 {
				words = append([]string{"org.hostile." + c.kind, `pipeline "tree": stage 1 (org.hostile.ok)`, `input "odd"`}, words...)
			}
			h.expect(h.run(h.manifest("input", c.kind), nil), c.status, words...)
		})
	}
	t.Run("source results", func(t *testing.T) {
		h.t = t
		h.expect(h.run(h.manifest("source", "results"), nil), 1, "source org.hostile.results: ", `its result 1 has not the form that a result has: "x"`, "fault of the module")
	})
	// Programs get JSON of all that, whatever it is.
	for _, c := range []struct{ family, kind, word string }{
		{"source", "results", "org.osbuild.error.source"}, {"source", "exception", "no luck"}, {"source", "print-fail", "exit status 5"},
		{"input", "exception-huge", "vvv"}, {"input", "garbage", "does not speak the protocol"}, {"stage", "exit1", "no luck today"},
		{"stage", "api-exception", "no luck"}, {"stage", "api-exception-huge", "the reason"},
	} {
		t.Run("JSON of "+c.family+" "+c.kind, func(t *testing.T) {
			h.t = t
			o := h.run(h.manifest(c.family, c.kind), nil, "--json")
			if o.status != 1 || o.stderr != "" || !json.Valid([]byte(o.stdout)) || len(o.stdout) > 500000 || !strings.Contains(o.stdout, c.word) {
				t.Errorf("status %d, %d bytes of JSON without %q:\n%.1000s\n%.1000s", o.status, len(o.stdout), c.word, o.stdout, o.stderr)
			}
		})
	}
	h.t = t
	h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
}

// TestHostileStages runs stages and runners that misbehave.
func TestHostileStages(t *testing.T) {
	h := newHostileLib(t)
	h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
	for _, c := range []struct {
		kind   string
		status int
		words  []string
	}{
		{"mode", 1, []string{"permission denied", "chmod a+x"}},
		{"interpreter", 1, []string{"no such file or directory", "org.hostile.interpreter", "build root"}},
		{"text", 1, []string{"exec format error", "org.hostile.text"}},
		{"exit1", 1, []string{"failed: exit status 1", "no luck today"}},
		{"exit255", 1, []string{"failed: exit status 255"}},
		{"killed", 1, []string{"failed: killed by signal 31"}},
		{"daemon", 0, nil},
		{"meta-huge", 1, []string{"/run/osbuild/meta has more than 16777216 bytes"}},
		{"api-flood", 0, nil},
		{"api-exception", 1, []string{"failed: no luck"}},
		{"api-exception-huge", 1, []string{"failed: the reason"}},
		{"api-exception-shape", 1, []string{`failed: {"a": "reason"}`}},
		{"api-last", 1, []string{"failed: the last word"}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			h.t = t
			words := c.words
			if c.status != 0 {
				words = append([]string{fmt.Sprintf(`pipeline "tree": stage 1 (org.hostile.%s)`, c.kind)}, words...)
			}
			h.expect(h.run(h.manifest("stage", c.kind), nil), c.status, words...)
		})
	}
	h.t = t
	h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
}

// hostRunner is what the runner of this host is called if a libdir has one.
func hostRunner(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `. /etc/os-release; echo "$ID$VERSION_ID"`).Output()
	if err != nil {
		t.Fatal(err)
	}
	return "org.osbuild." + strings.ReplaceAll(strings.TrimSpace(string(out)), ".", "")
}

// TestHostileRunners prepares the build root with runners that misbehave.
func TestHostileRunners(t *testing.T) {
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		words      []string
	}{
		{"mode", "#!/bin/sh\n", 0o644, []string{"permission denied", "chmod a+x"}},
		{"interpreter", "#!/no/such/interpreter\n", 0o755, []string{"no such file or directory"}},
		{"text", "hello\n", 0o755, []string{"exec format error"}},
		{"exit", "#!/bin/sh\necho no luck today\nexit 7\n", 0o755, []string{"ended with status 7", "it printed: no luck today"}},
		{"killed", "#!/bin/sh\nsh -c 'kill -KILL $$'\nexit $?\n", 0o755, []string{"ended with status 137"}},
		{"prints", "#!/bin/sh\nhead -c 20000000 /dev/zero\nexit 1\n", 0o755, []string{"ended with status 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostileLib(t)
			h.expect(h.run(h.manifest("stage", "ok"), nil), 0) // with the good one
			name := hostRunner(t)
			path := h.write("lib/runners/"+name, c.text)
			h.write("lib/runners/"+name+".meta.json", `{"setup": "once"}`)
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			h.expect(h.run(h.manifest("stage", "daemon"), nil), 1, append(c.words, `pipeline "`, name)...)
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
		})
	}
}

// TestHostileSilence ends modules that never do what they should: by an
// interrupt, and those of stages by the time limit.
func TestHostileSilence(t *testing.T) {
	h := newHostileLib(t)
	h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
	for _, c := range []struct{ family, kind, place string }{
		{"source", "silent", ""},
		{"source", "signals", ""},
		{"input", "silent", `input "odd": org.hostile.silent: `},
		{"input", "signals", `input "odd": org.hostile.signals: `},
		{"stage", "silent", ""},
	} {
		t.Run(c.family+" "+c.kind, func(t *testing.T) {
			h.t = t
			manifest := h.manifest(c.family, c.kind)
			o := h.run(manifest, func(p *os.Process) { h.interrupt(p, "org.hostile."+c.kind) })
			h.expect(o, 130, "interrupted")
			if c.family == "source" {
				return
			}
			stage := "ok"
			if c.family == "stage" {
				stage = c.kind
			}
			o = h.run(manifest, nil, "--stage-timeout", "2")
			h.expect(o, 1, fmt.Sprintf(`pipeline "tree": stage 1 (org.hostile.%s): `, stage)+c.place, "it took longer than 2s (--stage-timeout)")
		})
	}
	// What goes on when its connection is closed is ended after a while, by
	// an interrupt or by the time limit.
	t.Run("lingers", func(t *testing.T) {
		h.t = t
		h.expect(h.run(h.manifest("input", "lingers"), nil, "--stage-timeout", "2"), 1, `input "odd": org.hostile.lingers: `, "it took longer than 2s")
		o := h.run(h.manifest("source", "lingers"), func(p *os.Process) { h.interrupt(p, "org.hostile.lingers\x00daemon") })
		h.expect(o, 130, "interrupted")
	})
	// With a killed engine they end as well, and their children.
	t.Run("killed", func(t *testing.T) {
		h.t = t
		cmd := exec.Command(program(t), "--quiet", "--store", h.store, "--libdir", filepath.Join(h.dir, "lib"), h.manifest("input", "lingers"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		h.until(func() bool { return len(processes("org.hostile.lingers\x00daemon")) > 0 })
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		h.until(func() bool { return len(processes("org.hostile.")) == 0 })
		waitGone(t, h.store)
		h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
	})
	// A build that waits for one that hangs can be interrupted, too.
	t.Run("waiting", func(t *testing.T) {
		h.t = t
		manifest := h.manifest("stage", "silent")
		start := func() (*exec.Cmd, *os.File) {
			out := h.output("waiting")
			cmd := exec.Command(program(t), "--store", h.store, "--libdir", filepath.Join(h.dir, "lib"), manifest)
			cmd.Stderr = out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			return cmd, out
		}
		first, out := start()
		defer out.Close()
		h.until(func() bool { return len(processes("org.hostile.silent\x00daemon")) > 0 })
		second, out := start()
		defer out.Close()
		h.until(func() bool { return strings.Contains(h.text(out), "waiting: another build") })
		for _, cmd := range []*exec.Cmd{second, first} {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
			if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
				t.Errorf("%s", cmd.ProcessState)
			}
		}
		left(t, h.store)
	})
	t.Run("runner", func(t *testing.T) {
		h.t = t
		path := h.write("lib/runners/"+hostRunner(t), "#!/bin/sh\nsetsid sleep 3600 org.hostile.runner &\nexec sh -c 'sleep 3600; : org.hostile.runner'\n")
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		o := h.run(h.manifest("stage", "daemon"), func(p *os.Process) { h.interrupt(p, "org.hostile.runner") })
		h.expect(o, 130, "interrupted")
		h.expect(h.run(h.manifest("stage", "daemon"), nil, "--stage-timeout", "2"), 1, `pipeline "`, path, "it took longer than 2s")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	})
	// Checking this schema would take 4^40 steps.
	t.Run("schema", func(t *testing.T) {
		h.t = t
		definitions := `"l0": {"type": "object"}`
		for i := range 40 {
			ref := fmt.Sprintf(`{"$ref": "#/definitions/l%d"}`, i)
			definitions += fmt.Sprintf(`, "l%d": {"allOf": [%s, %s, %s, %s]}`, i+1, ref, ref, ref, ref)
		}
		h.module("stages", "schema", "#!/bin/sh\n", 0o755)
		h.write("lib/stages/org.hostile.schema.meta.json", `{"schema_2": {"options": {"definitions": {`+definitions+`}, "$ref": "#/definitions/l40"}}}`)
		o := h.run(h.manifest("stage", "schema"), func(p *os.Process) {
			h.until(func() bool { // the engine is at work
				dirs, _ := filepath.Glob(filepath.Join(h.store, "run/engine-*/memory"))
				return len(dirs) > 0
			})
			time.Sleep(300 * time.Millisecond) // and not before its first signal handler
			_ = p.Signal(os.Interrupt)
		})
		h.expect(o, 130, "interrupted")
	})
	h.t = t
	h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
}

// interrupt ends a build as Ctrl-C does when a process with that word runs.
func (h *hostileLib) interrupt(p *os.Process, word string) {
	h.t.Helper()
	h.until(func() bool {
		for _, line := range processes(word) {
			if !strings.Contains(line, "--store") { // the engine's own
				return true
			}
		}
		return false
	})
	if err := p.Signal(os.Interrupt); err != nil {
		h.t.Error(err)
	}
}

// until waits for something to come true.
func (h *hostileLib) until(true func() bool) {
	h.t.Helper()
	for range 3000 {
		if true() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.t.Error("it does not come true")
}

// TestHostilePrint prints much in every display: the engine's memory and its
// JSON stay small.
func TestHostilePrint(t *testing.T) {
	h := newHostileLib(t)
	const maxRSS = 200 << 10 // KiB
	for _, kind := range []string{"print", "line", "binary"} {
		for _, display := range []string{"terminal", "LogMonitor", "JSONSeqMonitor", "NullMonitor", "--json"} {
			t.Run(kind+" "+display, func(t *testing.T) {
				h.t = t
				args := []string{"--monitor", display}
				switch display {
				case "terminal":
					master, slave := pty.Open(t)
					go func() { _, _ = io.Copy(io.Discard, master) }()
					t.Setenv("TERM", "xterm-256color")
					args, h.terminal = nil, slave
					defer func() { h.terminal = nil }()
				case "--json":
					args = []string{display}
				}
				o := h.run(h.manifest("stage", kind), nil, args...)
				if o.status != 0 || o.maxRSS > maxRSS {
					t.Errorf("status %d, %d KiB of memory, want less than %d", o.status, o.maxRSS, maxRSS)
				}
				st, err := os.Stat(filepath.Join(h.dir, "stdout"))
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%d KiB of memory, %d bytes of output", o.maxRSS, st.Size())
				if display == "--json" {
					data, err := os.ReadFile(filepath.Join(h.dir, "stdout"))
					if err != nil || len(data) > 6*5<<20 || !json.Valid(data) { // \\ufffd for a byte
						t.Errorf("%d bytes, %v", len(data), err)
					}
				}
			})
		}
	}
}

// TestHostileMeta has modules that describe themselves badly: nothing runs.
func TestHostileMeta(t *testing.T) {
	h := newHostileLib(t)
	h.expect(h.run(h.manifest("stage", "ok"), nil), 0)
	h.module("stages", "meta", "#!/bin/sh\n", 0o755)
	program := filepath.Join(h.dir, "lib/stages/org.hostile.meta")
	meta := program + ".meta.json"
	options := func(schema string) string { return `{"schema_2": {"options": ` + schema + `}}` }
	for _, c := range []struct {
		name, text string
		status     int
		words      []string
	}{
		{"no JSON", "hello", 2, []string{"invalid character"}},
		{"empty", "", 2, []string{"unexpected end"}},
		{"array", "[]", 2, []string{"a JSON array, not an object"}},
		{"huge", strings.Repeat(" ", 17<<20), 2, []string{"17825792 bytes, at most 16777216"}},
		{"deep", options(strings.Repeat(`{"not":`, 100000) + "{}" + strings.Repeat("}", 100000)), 2, []string{"exceeded max depth"}},
		{"wrong type", `{"summary": 7}`, 2, []string{`"summary" is a JSON number`}},
		{"wrong capabilities", `{"capabilities": "CAP_SYS_ADMIN"}`, 2, []string{`"capabilities" is a JSON string`}},
		{"unknown capability", `{"capabilities": ["CAP_SYS_ADMIN", "CAP_\u001b[31mFOO"], "schema_2": {"options": {}}}`, 1, []string{"capabilities that this kernel does not have: CAP_FOO"}},
		{"schema is an array", `{"schema_2": []}`, 2, []string{"schema_2: not an object"}},
		{"unknown type", options(`{"type": "nonsense"}`), 2, []string{`at .properties.options.type: "nonsense" is no type`}},
		{"no expression", options(`{"properties": {"a": {"pattern": "(["}}}`), 2, []string{"at .properties.options.properties.a.pattern: regular expression"}},
		{"circle", options(`{"$ref": "#/properties/options"}`), 2, []string{"at .properties.options: refers to itself without end"}},
		{"reference to nothing", options(`{"$ref": "#/definitions/none"}`), 2, []string{"#/definitions/none points to no schema"}},
		{"reference to a file", options(`{"$ref": "file:///etc/passwd"}`), 2, []string{`"file:///etc/passwd" is no reference within the schema`}},
		{"reference to a device", options(`{"$ref": "file:///dev/zero"}`), 2, []string{`"file:///dev/zero" is no reference within the schema`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			h.write("lib/stages/org.hostile.meta.meta.json", c.text)
			place := "m.json:1: .pipelines[1].stages[1]"
			if c.status == 1 {
				place = `pipeline "tree": stage 1 (org.hostile.meta)`
			}
			h.expect(h.run(h.manifest("stage", "meta"), nil), c.status, append(c.words, place, "org.hostile.meta")...)
		})
	}
	for _, c := range []struct {
		path, kind, word string
	}{
		{program, "directory", "is a directory"},
		{program, "fifo", "is a fifo"},
		{program, "loop", "too many levels of symbolic links"},
		{program, "nothing", "a symbolic link to nothing"},
		{meta, "directory", "is a directory"},
		{meta, "fifo", "is a fifo"},
		{meta, "loop", "too many levels of symbolic links"},
	} {
		t.Run(filepath.Base(c.path)+" "+c.kind, func(t *testing.T) {
			h.t = t
			h.module("stages", "meta", "#!/bin/sh\n", 0o755)
			if err := os.Remove(c.path); err != nil {
				t.Fatal(err)
			}
			var err error
			switch c.kind {
			case "directory":
				err = os.Mkdir(c.path, 0o755)
			case "fifo":
				err = syscall.Mkfifo(c.path, 0o644)
			case "loop":
				err = os.Symlink(c.path, c.path)
			case "nothing":
				err = os.Symlink("/no/such/file", c.path)
			}
			if err != nil {
				t.Fatal(err)
			}
			h.expect(h.run(h.manifest("stage", "meta"), nil), 2, c.word, "m.json:1: .pipelines[1].stages[1]")
			if err := os.Remove(c.path); err != nil {
				t.Fatal(err)
			}
		})
	}
}
