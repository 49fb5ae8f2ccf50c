// Command inspect compares Ossify with osbuild in what both make of manifests:
// the ids of those that load, the errors of those that do not.
//
// OSBUILD names a checkout of osbuild, PYTHON the Python to run it with
// (python3), OSSIFY the program to test (build/ossify). It goes through
//
//   - all JSON files below the checkout's test/data, with its modules;
//   - Ossify's own manifests in pipeline/testdata, whole and broken, for which
//     osbuild's answers are recorded: the records must be what it still says;
//   - mutants, manifests that were changed by chance.
//
// Arguments choose among "files", "records" and "mutants"; without any it does
// all. It prints what differs and how much does not, and fails if anything does.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"github.com/ossify/ossify/pyjson"
)

func main() {
	update := flag.Bool("update", false, "record what osbuild answers")
	mutants := flag.Int("mutants", 1000, "compare this many manifests that were changed by chance")
	seed := flag.Int64("seed", 1, "which changes")
	flag.Parse()
	parts := flag.Args()
	if len(parts) == 0 {
		parts = []string{"files", "records", "mutants"}
	}
	if err := run(parts, *update, *mutants, *seed); err != nil {
		fmt.Fprintf(os.Stderr, "inspect: %v\n", err)
		os.Exit(1)
	}
}

// programs are what is compared.
type programs struct {
	osbuild, python, ossify, store string
}

func run(parts []string, update bool, mutants int, seed int64) (err error) {
	p := &programs{osbuild: os.Getenv("OSBUILD"), python: os.Getenv("PYTHON"), ossify: os.Getenv("OSSIFY")}
	if _, err := os.Stat(filepath.Join(p.osbuild, "osbuild/meta.py")); p.osbuild == "" || err != nil {
		return errors.New("set OSBUILD to a checkout of osbuild")
	}
	if p.python == "" {
		p.python = "python3"
	}
	if p.ossify == "" {
		p.ossify = "build/ossify"
	}
	if p.ossify, err = filepath.Abs(p.ossify); err != nil {
		return err
	}
	if _, err := os.Stat(p.ossify); err != nil {
		return fmt.Errorf("%w (run make program first, or set OSSIFY)", err)
	}
	work, err := os.MkdirTemp("/var/tmp", "ossify-inspect-")
	if err != nil {
		return err
	}
	p.store = filepath.Join(work, "store")
	defer func() {
		if out, rmErr := exec.Command(p.ossify, "unshare", "rm", "-rf", work).CombinedOutput(); rmErr != nil && err == nil {
			err = fmt.Errorf("remove %s: %w: %s", work, rmErr, out)
		}
	}()
	version, err := p.wordsVersion()
	if err != nil {
		return err
	}
	fmt.Printf("osbuild runs with Python's jsonschema %s\n", version)
	words := version == wordsOf
	if !words {
		fmt.Printf("messages are those of jsonschema %s and differ in other versions: only their places are compared\n", wordsOf)
		if update {
			return fmt.Errorf("records are made with jsonschema %s", wordsOf)
		}
	}
	libdir, err := ownLibdir(filepath.Join(work, "libdir"), p.osbuild)
	if err != nil {
		return err
	}
	different := 0
	for _, part := range parts {
		n := 0
		switch part {
		case "files":
			n, err = p.compareFiles(words)
		case "records":
			n, err = p.compareRecords(libdir, words, update)
		case "mutants":
			n, err = p.compareMutants(work, libdir, words, mutants, seed)
		default:
			err = fmt.Errorf("unknown part %q", part)
		}
		if err != nil {
			return err
		}
		different += n
	}
	if different > 0 {
		return fmt.Errorf("%d differ", different)
	}
	return nil
}

// wordsOf is the version of jsonschema whose messages Ossify has.
const wordsOf = "4.26.0"

func (p *programs) wordsVersion() (string, error) {
	out, err := exec.Command(p.python, "-c", "import importlib.metadata as m; print(m.version('jsonschema'))").Output()
	if err != nil {
		return "", fmt.Errorf("%s has no jsonschema, which osbuild needs: %w", p.python, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// answer is what a program says of a manifest.
type answer struct {
	status int
	// text is its standard output, or the last line of a traceback.
	text string
}

func (a answer) String() string { return fmt.Sprintf("status %d\n%s\n", a.status, a.text) }

// crashed says that osbuild ended with a traceback.
func (a answer) crashed() bool { return a.status == 1 }

func command(dir, name string, args ...string) (answer, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return answer{}, err
	}
	a := answer{cmd.ProcessState.ExitCode(), strings.TrimSuffix(stdout.String(), "\n")}
	if a.status == 1 && a.text == "" {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		a.text = lines[len(lines)-1]
	}
	return a, nil
}

func (p *programs) askOsbuild(libdir, manifest string) (answer, error) {
	a, err := command(p.osbuild, p.python, "-m", "osbuild", "--libdir", libdir, "--inspect", manifest)
	a.text = strings.ReplaceAll(normal(a.text, true), libdir, "LIBDIR")
	return a, err
}

func (p *programs) askOssify(libdir, manifest string) (answer, error) {
	return command("", p.ossify, "--store", p.store, "--libdir", libdir, "--inspect", manifest)
}

// normal is an answer of osbuild with its errors in order: those of one place
// come in any. Without words it leaves messages out.
func normal(text string, words bool) string {
	doc, err := pyjson.Decode([]byte(text), nil)
	o, ok := doc.(*pyjson.Object)
	if err != nil || !ok {
		return text
	}
	list, ok := o.Get("errors").([]any)
	if !ok {
		return text
	}
	places := map[string]bool{}
	var kept []any
	for _, v := range list {
		e := v.(*pyjson.Object)
		if !words {
			e.Set("message", "")
			if place := string(pyjson.Dumps(e, false)); places[place] {
				continue
			} else {
				places[place] = true
			}
		}
		kept = append(kept, e)
	}
	sort.SliceStable(kept, func(i, j int) bool { return sortKey(kept[i]) < sortKey(kept[j]) })
	o.Set("errors", kept)
	return string(pyjson.Dumps(o, false))
}

// sortKey orders errors by their place, as osbuild writes it, and message.
func sortKey(v any) string {
	e := v.(*pyjson.Object)
	key := ""
	for _, step := range e.Get("path").([]any) {
		if name, ok := step.(string); ok {
			key += pyjson.Member(name)
		} else {
			key += fmt.Sprintf("[%s]", step)
		}
	}
	return key + "\x00" + e.Get("message").(string)
}

// same compares answers. What osbuild crashes on Ossify has to refuse, and of an
// unknown version osbuild does not tell in JSON.
func same(osbuild, ossify answer, words bool) bool {
	if osbuild.crashed() || osbuild.text == "Unsupported manifest format" {
		return ossify.status == 2
	}
	return osbuild.status == ossify.status && normal(osbuild.text, words) == normal(ossify.text, words)
}

func show(name string, osbuild, ossify answer) {
	fmt.Printf("%s differs\n  osbuild: %s  ossify:  %s", name, shorten(osbuild.String()), shorten(ossify.String()))
}

func shorten(s string) string {
	const most = 4000
	if len(s) > most {
		return s[:most] + "...\n"
	}
	return s
}

// compareFiles compares all JSON files of osbuild's tests.
func (p *programs) compareFiles(words bool) (different int, err error) {
	files, err := jsonFiles(filepath.Join(p.osbuild, "test/data"))
	if err != nil {
		return 0, err
	}
	loaded, refused, crashed := 0, 0, 0
	for _, file := range files {
		osbuild, err := p.askOsbuild(p.osbuild, file)
		if err != nil {
			return 0, err
		}
		ossify, err := p.askOssify(p.osbuild, file)
		if err != nil {
			return 0, err
		}
		switch {
		case !same(osbuild, ossify, words):
			show(file, osbuild, ossify)
			different++
		case osbuild.status == 0:
			loaded++
		case osbuild.crashed():
			crashed++
		default:
			refused++
		}
	}
	fmt.Printf("osbuild's files: %d of %d equal: %d load with the same bytes, %d are refused with the same errors, %d end osbuild with a traceback and are refused\n",
		len(files)-different, len(files), loaded, refused, crashed)
	return different, nil
}

func jsonFiles(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".json") {
			files = append(files, path)
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no JSON files below %s", dir)
	}
	return files, err
}

// ownLibdir makes a libdir of the modules in pipeline/testdata that osbuild can
// use: with its schemas and a runner for this host.
func ownLibdir(dir, osbuild string) (string, error) {
	own, err := filepath.Abs("pipeline/testdata/libdir")
	if err != nil {
		return "", err
	}
	folders, err := os.ReadDir(own)
	if err != nil {
		return "", fmt.Errorf("%w (run this in the repository's root)", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "runners"), 0o755); err != nil {
		return "", err
	}
	for _, f := range folders {
		if f.Name() == "runners" {
			continue
		}
		if err := os.Symlink(filepath.Join(own, f.Name()), filepath.Join(dir, f.Name())); err != nil {
			return "", err
		}
	}
	if err := os.Symlink(filepath.Join(osbuild, "schemas"), filepath.Join(dir, "schemas")); err != nil {
		return "", err
	}
	runners, err := filepath.Glob(filepath.Join(osbuild, "runners", "*"))
	if err != nil {
		return "", err
	}
	mine, err := filepath.Glob(filepath.Join(own, "runners", "*"))
	if err != nil {
		return "", err
	}
	seen := map[string]bool{}
	for _, path := range append(mine, runners...) {
		name := filepath.Base(path)
		// Of a distribution that the own libdir has no others are taken.
		family := strings.TrimRight(name, "0123456789")
		if seen[family] && !strings.HasPrefix(path, own) {
			continue
		}
		seen[family] = true
		if err := os.Symlink(path, filepath.Join(dir, "runners", name)); err != nil {
			return "", err
		}
	}
	return dir, nil
}
