package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

// compareRecords sees that osbuild still answers as it is recorded; that Ossify
// answers so, too, is for the tests of package pipeline, and is tried here with
// the program.
func (p *programs) compareRecords(libdir string, words, update bool) (different int, err error) {
	cases, err := filepath.Glob("pipeline/testdata/broken/*.txtar")
	if err != nil {
		return 0, err
	}
	whole, err := filepath.Glob("pipeline/testdata/manifests/*.json")
	if err != nil {
		return 0, err
	}
	if len(cases) == 0 || len(whole) == 0 {
		return 0, fmt.Errorf("no manifests in pipeline/testdata")
	}
	for _, file := range whole {
		record := strings.TrimSuffix(file, ".json") + ".inspect"
		ok, err := p.compareWhole(libdir, file, record, update)
		if err != nil {
			return 0, err
		}
		if !ok {
			different++
		}
	}
	fmt.Printf("whole manifests: %d of %d equal\n", len(whole)-different, len(whole))
	broken := 0
	for _, file := range cases {
		ok, err := p.compareBroken(libdir, file, words, update)
		if err != nil {
			return 0, err
		}
		if !ok {
			broken++
		}
	}
	fmt.Printf("broken manifests: %d of %d as recorded\n", len(cases)-broken, len(cases))
	return different + broken, nil
}

func (p *programs) compareWhole(libdir, file, record string, update bool) (bool, error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return false, err
	}
	osbuild, err := p.askOsbuild(libdir, abs)
	if err != nil {
		return false, err
	}
	if update {
		if err := os.WriteFile(record, []byte(osbuild.text+"\n"), 0o644); err != nil {
			return false, err
		}
	}
	ossify, err := p.askOssify(libdir, abs)
	if err != nil {
		return false, err
	}
	recorded, err := os.ReadFile(record)
	if err != nil {
		return false, err
	}
	if osbuild.status != 0 || string(recorded) != osbuild.text+"\n" || !same(osbuild, ossify, true) {
		show(file, osbuild, ossify)
		return false, nil
	}
	return true, nil
}

func (p *programs) compareBroken(libdir, file string, words, update bool) (bool, error) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		return false, err
	}
	sections := map[string]string{}
	for _, f := range archive.Files {
		sections[f.Name] = string(f.Data)
	}
	manifest := filepath.Join(filepath.Dir(p.store), "manifest.json")
	if err := os.WriteFile(manifest, []byte(sections["manifest.json"]), 0o644); err != nil {
		return false, err
	}
	osbuild, err := p.askOsbuild(libdir, manifest)
	if err != nil {
		return false, err
	}
	if update {
		setSection(archive, "osbuild", osbuild.String())
		sections["osbuild"] = osbuild.String()
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			return false, err
		}
	}
	ossify, err := p.askOssify(libdir, manifest)
	if err != nil {
		return false, err
	}
	recorded, err := parseAnswer(sections["osbuild"])
	if err != nil {
		return false, fmt.Errorf("%s: %w", file, err)
	}
	if recorded.status != osbuild.status || !osbuild.crashed() && normal(recorded.text, words) != normal(osbuild.text, words) {
		fmt.Printf("%s: osbuild answers now: %s", file, osbuild)
		return false, nil
	}
	want := recorded
	if text, ok := sections["ossify"]; ok {
		if want, err = parseAnswer(text); err != nil {
			return false, fmt.Errorf("%s: %w", file, err)
		}
	}
	if ossify.status != want.status || normal(unlisted(ossify.text), true) != normal(unlisted(want.text), true) {
		fmt.Printf("%s: ossify answers %s", file, ossify)
		return false, nil
	}
	return true, nil
}

// unlisted is an answer without the list of known runners, which the record has
// without Ossify's native ones.
func unlisted(text string) string {
	head, _, _ := strings.Cut(text, "; known: org.")
	return head
}

func setSection(archive *txtar.Archive, name, text string) {
	for i, f := range archive.Files {
		if f.Name == name {
			archive.Files[i].Data = []byte(text)
			return
		}
	}
	// After the manifest, before what Ossify says.
	files := append([]txtar.File{}, archive.Files[0], txtar.File{Name: name, Data: []byte(text)})
	archive.Files = append(files, archive.Files[1:]...)
}

func parseAnswer(text string) (answer, error) {
	head, rest, _ := strings.Cut(text, "\n")
	var a answer
	if _, err := fmt.Sscanf(head, "status %d", &a.status); err != nil {
		return a, fmt.Errorf("%q is no answer: %w", head, err)
	}
	a.text = strings.TrimSuffix(rest, "\n")
	return a, nil
}
