//go:build osbuild

package stages

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pattern"
	"golang.org/x/sys/unix"
)

// TestMain starts the tests once more in a mount namespace of their own. They
// stay root of this machine, as osbuild's stages want it.
func TestMain(m *testing.M) {
	if err := enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func enter() error {
	if os.Geteuid() != 0 {
		return errors.New("osbuild's stages run as root only")
	}
	unix.Umask(0o022)
	if os.Getenv("OSSIFY_TEST_NAMESPACE") != "" {
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
			return err
		}
		return mountDev()
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	argv := append([]string{unshare, "--mount", "--propagation", "private", os.Args[0]}, os.Args[1:]...)
	return unix.Exec(unshare, argv, append(os.Environ(), "OSSIFY_TEST_NAMESPACE=1"))
}

// mountDev mounts a /dev with the nodes of a build root and those of loop devices,
// but without the links that stages make.
func mountDev() error {
	nodes := map[string]unix.Stat_t{}
	names, err := filepath.Glob("/dev/loop*")
	if err != nil {
		return err
	}
	for _, name := range append(names, "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty") {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			return &os.PathError{Op: "stat", Path: name, Err: err}
		}
		nodes[name] = st
	}
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for name, st := range nodes {
		if err := errors.Join(unix.Mknod(name, st.Mode, int(st.Rdev)), unix.Chmod(name, st.Mode&0o777)); err != nil {
			return &os.PathError{Op: "mknod", Path: name, Err: err}
		}
	}
	return os.MkdirAll("/dev/shm", 0o1777)
}

// realLabels shows the labels that osbuild's stages set.
const realLabels = true

// caseDir returns an empty directory for the trees of a case. It is in the
// memory of the mount namespace and ends with it: nothing is ever removed, as a
// stage may have left a mount in its tree.
func caseDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "case-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestOsbuild runs every case by osbuild's Python module of the same name and
// by ours, each on trees of its own, and compares the verdict of the schema,
// success and failure, and what changed. OSBUILD is the absolute path of a
// checkout. A case that means to differ says why in its part "differs", and
// then has to differ. The last thing it prints is a table of the modules.
func TestOsbuild(t *testing.T) {
	checkout := os.Getenv("OSBUILD")
	if !filepath.IsAbs(checkout) {
		t.Fatal("OSBUILD is not the absolute path of a checkout of osbuild")
	}
	script, err := filepath.Abs("../test/osbuild/schema.py")
	if err != nil {
		t.Fatal(err)
	}
	type row struct{ equal, different, meant, error int }
	rows := map[string]*row{}
	var reasons []string
	for folder, files := range caseFolders(t) {
		stage, ok := module.Find(All, folder)
		if !ok {
			continue // TestCases says so
		}
		if _, err := os.Stat(filepath.Join(checkout, "stages", folder)); err != nil {
			reasons = append(reasons, folder+": osbuild has no such stage")
			continue
		}
		r := &row{}
		rows[folder] = r
		t.Run(folder, func(t *testing.T) {
			for _, file := range files {
				name := strings.TrimSuffix(filepath.Base(file), ".txtar")
				done := t.Run(name, func(t *testing.T) {
					difference, why := againstOsbuild(t, checkout, script, stage, file)
					switch {
					case why != "" && difference == "":
						t.Errorf("%s is said to differ, but does not", file)
						r.error++
					case why != "":
						r.meant++
						reasons = append(reasons, fmt.Sprintf("%s/%s: %s", folder, name, why))
					case difference != "":
						r.different++
						t.Errorf("%s\n%s", file, difference)
					default:
						r.equal++
					}
				})
				if !done && r.different == 0 {
					r.error++
				}
			}
		})
	}
	fmt.Println("module | equal | different | meant to differ")
	names := make([]string, 0, len(rows))
	for name := range rows {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Printf("%s | %d | %d | %d\n", name, rows[name].equal, rows[name].different+rows[name].error, rows[name].meant)
	}
	sort.Strings(reasons)
	fmt.Println("\n" + strings.Join(reasons, "\n"))
}

// againstOsbuild returns in what the two differ, and why the case says they do.
func againstOsbuild(t *testing.T, checkout, script string, stage module.Module, file string) (difference, why string) {
	c, ours, options, refusal := openCase(t, stage.Name, file)
	text, _ := c.get("differs")
	why = strings.Join(strings.Fields(text), " ")
	theirs := osbuildVerdict(t, checkout, script, stage.Name, ours, c)
	if verdict := map[bool]string{true: "valid", false: "refused"}[refusal == nil]; verdict != theirs {
		return fmt.Sprintf("osbuild's schema says %s, ours %s: %v", theirs, verdict, refusal), why
	}
	if refusal != nil {
		return "", why
	}
	ourLines, ourErr := outcome(t, c, ours, options, func(args map[string]any) error { return runStage(stage, args) })
	other := &trees{dir: caseDir(t), real: true}
	if err := os.Chmod(other.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := other.build(c); err != nil {
		t.Fatal(err)
	}
	// The options name the folder of the case.
	options = bytes.ReplaceAll(options, []byte(ours.dir), []byte(other.dir))
	theirLines, theirErr := outcome(t, c, other, options, func(args map[string]any) error {
		if err := putArguments(args); err != nil {
			return err
		}
		// Ours may have made it, and then osbuild's cannot.
		if err := os.Remove("/dev/fd"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		var said bytes.Buffer
		cmd, err := osbuildCommand(filepath.Join(checkout, "stages", stage.Name))
		if err != nil {
			return err
		}
		cmd.Env = append(os.Environ(), "PYTHONPATH="+checkout)
		if epoch := args["meta"].(map[string]any)["source-epoch"].(*int64); epoch != nil {
			cmd.Env = append(cmd.Env, fmt.Sprint("SOURCE_DATE_EPOCH=", *epoch))
		}
		cmd.Dir = "/"
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%w: %s", err, said.String())
		}
		return nil
	})
	if (ourErr == nil) != (theirErr == nil) {
		return fmt.Sprintf("osbuild ends with: %v\nours with: %v", theirErr, ourErr), why
	}
	var out strings.Builder
	for _, line := range theirLines {
		if !slices.Contains(ourLines, line) {
			fmt.Fprintf(&out, "osbuild: %s\n", line)
		}
	}
	for _, line := range ourLines {
		if !slices.Contains(theirLines, line) {
			fmt.Fprintf(&out, "ours:    %s\n", line)
		}
	}
	return out.String(), why
}

// memberTimes are times of access and inode change of an archive's member: osbuild's
// archives have them, ours leave them out so that one tree makes one archive.
var memberTimes = pattern.New(` [ac]time="[0-9.]*"`)

// osbuildCommand makes the command of osbuild's module, with a server of loop
// devices if it asks for them.
func osbuildCommand(module string) (*exec.Cmd, error) {
	source, err := os.ReadFile(module)
	if err != nil {
		return nil, err
	}
	// What a module leaves mounted ends with its container, here with its namespace.
	command := []string{"--mount", "--propagation", "private", "/usr/bin/python3", "-B"}
	if bytes.Contains(source, []byte("remoteloop")) {
		loops, err := filepath.Abs("../test/osbuild/loops.py")
		if err != nil {
			return nil, err
		}
		command = append(command, loops, "/usr/bin/python3", "-B")
	}
	return exec.Command("unshare", append(command, module)...), nil
}

// outcome runs a stage and returns all that changed as lines.
func outcome(t *testing.T, c *caseFile, where *trees, options json.RawMessage, run func(map[string]any) error) ([]string, error) {
	changed, shown, err := where.apply(t, c, options, run)
	if err != nil {
		return nil, err
	}
	uncompared := uncomparedPaths(c)
	var out []string
	for _, line := range changed {
		if uncompared[line.path] {
			line.content = anyContent
		}
		if strings.HasPrefix(line.content, "archive ") {
			for _, member := range strings.Split(where.archives[line.path], "\n") {
				out = append(out, line.path+" holds "+memberTimes().ReplaceAllString(member, ""))
			}
			if line.content == "archive ustar" { // posix without a record, such as those times
				line.content = "archive posix"
			}
		}
		out = append(out, line.String())
	}
	for name, text := range shown {
		for _, line := range strings.Split(text, "\n") {
			out = append(out, name+": "+line)
		}
	}
	return out, nil
}

// osbuildVerdict is "valid" or "refused", by osbuild's own schema.
func osbuildVerdict(t *testing.T, checkout, script, stage string, where *trees, c *caseFile) string {
	m, err := readMeta(stage)
	if err != nil {
		t.Fatal(err)
	}
	object1, object2, err := stageObjects(stage, m, where, c)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]any{"name": stage, "1": object1, "2": object2})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-B", script)
	cmd.Dir = checkout
	cmd.Stdin = bytes.NewReader(data)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("osbuild's schema of %s: %v", stage, err)
	}
	return strings.TrimSpace(string(out))
}
