package main

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/pyjson"
)

// answersProgram asks osbuild's own code, in one process: a start of osbuild
// for each manifest takes too long.
//
//go:embed answers.py
var answersProgram string

// parent is a manifest that mutants are made of.
type parent struct {
	libdir string
	text   []byte
}

// compareMutants compares manifests that differ from good ones in a few places.
func (p *programs) compareMutants(work, libdir string, words bool, count int, seed int64) (different int, err error) {
	parents, err := p.parents(libdir)
	if err != nil {
		return 0, err
	}
	indexes := map[string]*pipeline.Index{}
	for _, dir := range []string{libdir, p.osbuild} {
		if indexes[dir], err = pipeline.OpenIndex(dir); err != nil {
			return 0, err
		}
	}
	program := filepath.Join(work, "answers.py")
	if err := os.WriteFile(program, []byte(answersProgram), 0o644); err != nil {
		return 0, err
	}
	cmd := exec.Command(p.python, program, p.osbuild)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { stdin.Close(); err = errors.Join(err, cmd.Wait()) }()
	answers := bufio.NewReader(stdout)

	fmt.Printf("mutants are made of %d manifests\n", len(parents))
	random := rand.New(rand.NewSource(seed))
	manifest := filepath.Join(work, "mutant.json")
	statuses := map[int]int{}
	for i := 0; i < count; i++ {
		from := parents[random.Intn(len(parents))]
		mutant := mutate(random, from.text)
		if mutant == nil {
			i--
			continue
		}
		if err := os.WriteFile(manifest, mutant, 0o644); err != nil {
			return 0, err
		}
		osbuild, err := ask(stdin, answers, from.libdir, manifest)
		if err != nil {
			return 0, err
		}
		ossify := load(mutant, indexes[from.libdir])
		statuses[osbuild.status]++
		if !same(osbuild, ossify, words) {
			show(fmt.Sprintf("mutant %d of seed %d", i, seed), osbuild, ossify)
			fmt.Printf("  %s\n", shorten(string(mutant)))
			different++
		}
	}
	fmt.Printf("mutants: %d of %d equal: osbuild loads %d, refuses %d, and ends with a traceback at %d\n",
		count-different, count, statuses[0], statuses[2], statuses[1])
	return different, nil
}

// parents are the manifests of both sides, large ones without their packages.
func (p *programs) parents(libdir string) ([]parent, error) {
	const large = 64 << 10
	var parents []parent
	for dir, modules := range map[string]string{"pipeline/testdata/manifests": libdir, filepath.Join(p.osbuild, "test/data"): p.osbuild} {
		files, err := jsonFiles(dir)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			doc, err := pyjson.Decode(text, nil)
			o, ok := doc.(*pyjson.Object)
			if err != nil || !ok || !o.Has("pipeline") && !o.Has("pipelines") {
				continue
			}
			if len(text) > large {
				withoutContent(o)
				text = pyjson.Dumps(o, false)
			}
			if len(text) <= large {
				parents = append(parents, parent{modules, text})
			}
		}
	}
	sort.Slice(parents, func(i, j int) bool { return string(parents[i].text) < string(parents[j].text) })
	return parents, nil
}

// withoutContent leaves one item in sources and inputs, the same in all.
func withoutContent(root *pyjson.Object) {
	const id = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for _, at := range spots(root, nil, nil) {
		o, ok := at.value.(*pyjson.Object)
		if !ok {
			continue
		}
		if items, ok := o.Get("items").(*pyjson.Object); ok && len(at.path) == 2 && at.path[0] == "sources" && len(items.Keys) > 0 {
			o.Set("items", pyjson.NewObject(id, items.Get(items.Keys[0])))
		}
		if o.Get("origin") == "org.osbuild.source" {
			o.Set("references", []any{id})
		}
	}
}

func ask(stdin io.Writer, answers *bufio.Reader, libdir, manifest string) (answer, error) {
	if _, err := fmt.Fprintf(stdin, "%s\t%s\n", libdir, manifest); err != nil {
		return answer{}, err
	}
	line, err := answers.ReadString('\n')
	if err != nil {
		return answer{}, err
	}
	status, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
	n, err := strconv.Atoi(status)
	return answer{n, normal(text, true)}, err
}

// load is what the program answers, too (cmd/ossify, buildManifest).
func load(text []byte, index *pipeline.Index) answer {
	m, err := pipeline.Load("m.json", text, index)
	var invalid *pipeline.ValidationError
	switch {
	case errors.As(err, &invalid):
		return answer{2, string(invalid.JSON())}
	case err != nil:
		return answer{1, err.Error()}
	}
	return answer{0, string(pipeline.Describe(m))}
}

// spot is a place in a document: what is there, and how to change it.
type spot struct {
	path   []any
	value  any
	set    func(any)
	remove func()
}

func spots(v any, path []any, found []spot) []spot {
	here := path[:len(path):len(path)]
	switch v := v.(type) {
	case *pyjson.Object:
		for _, k := range v.Keys {
			at := spot{path: append(here, k), value: v.Get(k), set: func(x any) { v.Set(k, x) }, remove: func() { drop(v, k) }}
			found = spots(v.Get(k), at.path, append(found, at))
		}
	case []any:
		for i := range v {
			at := spot{path: append(here, i), value: v[i], set: func(x any) { v[i] = x }}
			found = spots(v[i], at.path, append(found, at))
		}
	}
	return found
}

func drop(o *pyjson.Object, key string) {
	delete(o.Values, key)
	for i, k := range o.Keys {
		if k == key {
			o.Keys = append(o.Keys[:i:i], o.Keys[i+1:]...)
			return
		}
	}
}

// strange are values that are wrong in most places.
var strange = []string{
	`null`, `true`, `false`, `0`, `1`, `-1`, `1.0`, `2.5`, `1E5`, `-0`, `1e-7`, `123456789012345678901234567890`, `""`, `"x"`, `"a b"`,
	`"name:build"`, `"name:"`, `"é\n"`, `"\ud800"`, `"sha256:0"`, `"org.osbuild.noop"`, `"org.osbuild.nothing"`, `"/"`, `[]`, `[1]`, `["x", "x"]`,
	`[{}]`, `{}`, `{"x": 1}`, `{"name": "x"}`, `{"type": "org.osbuild.noop"}`,
}

// mutate changes a manifest in one to three places. It returns nil for what
// Ossify refuses on purpose though osbuild loads it: pipelines whose name is no
// string, a source-epoch beyond 64 bits, and runners of format 1 with an empty
// name, for which osbuild takes any.
func mutate(random *rand.Rand, text []byte) []byte {
	doc, err := pyjson.Decode(text, nil)
	if err != nil {
		return nil
	}
	for n := 1 + random.Intn(3); n > 0; n-- {
		all := spots(doc, nil, nil)
		if len(all) == 0 {
			break
		}
		// Few faults at the top: they hide all others.
		at := all[random.Intn(len(all))]
		for range 2 {
			if other := all[random.Intn(len(all))]; len(other.path) > len(at.path) {
				at = other
			}
		}
		change(random, at)
	}
	text = pyjson.Dumps(doc, false)
	if bytes.Contains(text, []byte(`"runner": ""`)) {
		return nil
	}
	root, _ := doc.(*pyjson.Object)
	pipelines, _ := root.Get("pipelines").([]any)
	for _, v := range pipelines {
		if o, ok := v.(*pyjson.Object); ok {
			if _, ok := o.Get("name").(string); !ok && o.Has("name") {
				return nil
			}
			if n, ok := o.Get("source-epoch").(json.Number); ok && len(n) > 18 {
				return nil
			}
		}
	}
	return text
}

func change(random *rand.Rand, at spot) {
	other := func() any {
		v, err := pyjson.Decode([]byte(strange[random.Intn(len(strange))]), nil)
		if err != nil {
			panic(err)
		}
		return v
	}
	switch random.Intn(6) {
	case 0:
		if at.remove != nil {
			at.remove()
			return
		}
	case 1: // one more member or item
		switch v := at.value.(type) {
		case *pyjson.Object:
			v.Set([]string{"x", "a b", "name", "type", "options", "é"}[random.Intn(6)], other())
			return
		case []any:
			if len(v) > 0 && random.Intn(2) == 0 {
				at.set(append(v[:len(v):len(v)], v[random.Intn(len(v))]))
			} else {
				at.set(append(v[:len(v):len(v)], other()))
			}
			return
		}
	case 2: // nearly the same
		switch v := at.value.(type) {
		case string:
			at.set([]string{v + "\n", v + "x", strings.ToUpper(v), " " + v, strings.TrimSuffix(v, v[min(1, len(v)):]), v + v}[random.Intn(6)])
			return
		case json.Number:
			n := json.Number(string(v) + []string{"0", ".0", "e3", "000000000000"}[random.Intn(4)])
			if _, err := pyjson.Decode([]byte(n), nil); err == nil && pyjson.Finite(n) {
				at.set(n)
				return
			}
		case []any:
			at.set([]any{v})
			return
		}
	}
	at.set(other())
}
