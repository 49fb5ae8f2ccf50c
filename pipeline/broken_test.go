package pipeline_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/pipeline"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what Ossify says of broken manifests into their files")

// TestBroken compares with what osbuild answers to manifests that are broken, or
// look so. A file of testdata/broken has the manifest, osbuild's answer as
// test/osbuild/inspect recorded it, Ossify's where that is another one, and
// Ossify's message for people. Answers are the same but where osbuild ends with
// a traceback, for which Ossify has a message and the status 2, and where the
// file's comment starts with "differs:" and says why.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.txtar")
	if err != nil || len(files) < 100 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) { tryBroken(t, file) })
	}
}

func tryBroken(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, f := range archive.Files {
		sections[f.Name] = string(f.Data)
	}
	osbuild, crashed := sections["osbuild"], strings.HasPrefix(sections["osbuild"], "status 1\n")
	if osbuild == "" {
		t.Fatal("osbuild's answer is not recorded: run test/osbuild/inspect -update records")
	}
	answer, message := inspect(t, []byte(sections["manifest.json"]))
	if crashed && !strings.HasPrefix(answer, "status 2\n") {
		t.Errorf("osbuild ends with a traceback, Ossify answers %s", answer)
	}
	if differs := strings.HasPrefix(string(archive.Comment), "differs:"); differs == (answer == osbuild || crashed) {
		t.Errorf("the comment says that answers differ: %v; they are\n%s%s", differs, osbuild, answer)
	}
	if *update {
		archive.Files = []txtar.File{{Name: "manifest.json", Data: []byte(sections["manifest.json"])}, {Name: "osbuild", Data: []byte(osbuild)}}
		if answer != osbuild {
			archive.Files = append(archive.Files, txtar.File{Name: "ossify", Data: []byte(answer)})
		}
		if message != "" {
			archive.Files = append(archive.Files, txtar.File{Name: "message", Data: []byte(message)})
		}
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want := osbuild
	if own, ok := sections["ossify"]; ok {
		want = own
	}
	if answer != want {
		t.Errorf("got  %swant %s", answer, want)
	}
	if message != sections["message"] {
		t.Errorf("message is\n%swant\n%s", message, sections["message"])
	}
}

// inspect is what ossify --inspect prints and its status, and the message that
// people get.
func inspect(t *testing.T, manifest []byte) (answer, message string) {
	t.Helper()
	m, err := pipeline.Load("m.json", manifest, testIndex(t))
	var invalid *pipeline.ValidationError
	switch {
	case errors.As(err, &invalid):
		return fmt.Sprintf("status 2\n%s\n", invalid.JSON()), invalid.Error() + "\n"
	case err != nil:
		t.Fatal(err)
	}
	return fmt.Sprintf("status 0\n%s\n", pipeline.Describe(m)), ""
}
