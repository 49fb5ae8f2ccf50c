package stages

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
	"golang.org/x/sys/unix"
)

// trees are the directories of one case: the stage's tree, its inputs, mounts
// and devices.
type trees struct {
	// dir holds them all: tree, inputs/NAME, mounts/NAME, devices/NAME, which is
	// a file, and bin with the stand-ins.
	dir string
	// archives holds the listing of each archive of the last snapshot.
	archives map[string]string
	// records are the side records of the tree ("") and of inputs, by name; the
	// lines of "before" fill them.
	records map[string]record.Record
	// real puts labels and inode flags into the files instead.
	real bool
}

// locate returns the directory that a path of a tree line is in, the prefix of
// its paths, and the path below it.
func (t *trees) locate(where string) (root, prefix, below string, err error) {
	if name, ok := strings.CutPrefix(where, "device://"); ok {
		return filepath.Join(t.dir, "devices"), "device:/", "/" + name, nil
	}
	for _, kind := range []string{"input", "mount"} {
		rest, ok := strings.CutPrefix(where, kind+"://")
		if !ok {
			continue
		}
		name, below, _ := strings.Cut(rest, "/")
		return filepath.Join(t.dir, kind+"s", name), kind + "://" + name, "/" + below, nil
	}
	if !strings.HasPrefix(where, "/") {
		return "", "", "", fmt.Errorf("path %q must begin with /, input://, mount:// or device://", where)
	}
	return filepath.Join(t.dir, "tree"), "", where, nil
}

func (t *trees) path(where string) (string, error) {
	root, _, below, err := t.locate(where)
	return filepath.Join(root, below), err
}

// build makes what the case has before the stage runs.
func (t *trees) build(c *caseFile) error {
	for _, dir := range []string{"tree", "inputs", "mounts", "devices", "bin"} {
		if err := os.Mkdir(filepath.Join(t.dir, dir), 0o755); err != nil {
			return err
		}
	}
	lines, err := c.treeLines("before")
	if err != nil {
		return err
	}
	t.records = map[string]record.Record{}
	for _, line := range lines {
		if err := t.place(c, line); err != nil {
			return fmt.Errorf("before: %s: %w", line, err)
		}
	}
	for _, tool := range c.lines("tools") {
		if err := copyTool(filepath.Join(t.dir, "tree"), tool); err != nil {
			return fmt.Errorf("copy tool %s: %w", tool, err)
		}
	}
	for _, part := range c.parts {
		if name, ok := strings.CutPrefix(part.name, "standin "); ok {
			if err := os.WriteFile(filepath.Join(t.dir, "bin", path.Base(name)), []byte(part.data), 0o755); err != nil {
				return err
			}
		}
	}
	if err := t.buildRoot(c); err != nil {
		return err
	}
	for i := len(lines) - 1; i >= 0; i-- {
		if lines[i].mtime < 0 {
			continue
		}
		path, err := t.path(lines[i].path)
		if err == nil {
			err = lines[i].setTime(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *trees) place(c *caseFile, line treeLine) error {
	path, err := t.path(line.path)
	if err != nil {
		return err
	}
	if err := t.note(&line); err != nil {
		return err
	}
	if d, ok := line.device(); ok && t.real {
		kind := map[byte]uint32{'c': unix.S_IFCHR, 'b': unix.S_IFBLK}[d.Kind]
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(path, kind, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
			return err
		}
		return line.dress(path)
	} else if ok {
		return nil
	}
	if line.kind == "repository" {
		return writeRepository(path)
	}
	if line.kind == "rpm" {
		spec, ok := c.get("rpm " + line.path)
		if !ok {
			return fmt.Errorf("there is no part %q", "rpm "+line.path)
		}
		return writeRPM(path, spec, line.content == "signed")
	}
	format, isArchive := strings.CutPrefix(line.content, "archive ")
	if line.kind != "deb" && !isArchive {
		var other string
		if line.kind == "same" {
			if other, err = t.path(line.target); err != nil {
				return err
			}
		}
		return line.place(path, other)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if line.kind == "deb" {
		members, err := c.treeLines("deb " + line.path)
		if err != nil {
			return err
		}
		return writeDeb(path, members)
	}
	members, err := c.treeLines("archive " + line.path)
	if err != nil {
		return err
	}
	if err := writeArchive(path, format, members); err != nil {
		return err
	}
	return line.dress(path)
}

// note moves what a line says of labels and inode flags to the side record.
func (t *trees) note(line *treeLine) error {
	_, prefix, below, err := t.locate(line.path)
	if err != nil {
		return err
	}
	if prefix != "" && !strings.HasPrefix(prefix, "input://") {
		return nil // mounts and devices have no record
	}
	name := strings.TrimPrefix(prefix, "input://")
	if d, ok := line.device(); ok && !t.real {
		if t.records[name] == nil {
			t.records[name] = record.Record{}
		}
		t.records[name].SetDevice(filepath.Clean(below), d)
	}
	kept := line.attrs[:0:0]
	for _, attr := range line.attrs {
		key, value, err := splitAttr(attr)
		if err != nil {
			return err
		}
		if t.records[name] == nil && (key == labelAttr || key == flagsAttr) && !t.real {
			t.records[name] = record.Record{}
		}
		switch {
		case t.real && key == flagsAttr:
			line.immutable = true
		case t.real && key == labelAttr:
			kept = append(kept, labelAttr+"="+strconv.Quote(value+"\x00")) // as libselinux does
		case t.real:
			kept = append(kept, attr)
		case key == labelAttr:
			t.records[name].SetLabel(filepath.Clean(below), value)
		case key == flagsAttr:
			t.records[name].SetFlags(filepath.Clean(below), record.Immutable, record.Immutable)
		default:
			kept = append(kept, attr)
		}
	}
	line.attrs = kept
	return nil
}

// hideTool takes a program from the build root, which in tests is this machine,
// until release is called; release is never nil.
func hideTool(tool string) (release func() error, err error) {
	var hidden []string
	release = func() error {
		var errs []error
		for _, path := range hidden {
			errs = append(errs, unix.Unmount(path, 0))
		}
		return errors.Join(errs...)
	}
	for {
		path, err := module.LookTool(tool)
		if err != nil {
			return release, nil
		}
		if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
			return release, fmt.Errorf("hide %s: %w", path, err)
		}
		hidden = append(hidden, path)
	}
}

// snapshot returns the lines of all trees by path.
func (t *trees) snapshot() (map[string]treeLine, error) {
	t.archives = map[string]string{}
	roots := []string{"/", "device://"}
	for _, kind := range []string{"input", "mount"} {
		entries, err := os.ReadDir(filepath.Join(t.dir, kind+"s"))
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			roots = append(roots, kind+"://"+entry.Name()+"/")
		}
	}
	out := map[string]treeLine{}
	for _, where := range roots {
		root, prefix, _, err := t.locate(where)
		if err != nil {
			return nil, err
		}
		lines, err := snapshot(root, prefix, func(path string, data []byte) (string, error) {
			if !isArchive(path) {
				return showContent(bytes.ReplaceAll(data, []byte(t.dir), []byte("$CASE"))), nil
			}
			format, members, err := readArchive(data)
			var listing strings.Builder
			for _, member := range members {
				fmt.Fprintln(&listing, member)
			}
			below, relErr := filepath.Rel(root, path)
			t.archives[prefix+"/"+below] = listing.String()
			return "archive " + format, errors.Join(err, relErr)
		})
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			out[line.path] = line
		}
	}
	// What stages leave is the record of the tree.
	r, err := record.Open(module.RecordPath)
	if err != nil {
		return nil, err
	}
	if len(r) == 0 {
		r = t.records[""]
	}
	for name, d := range r.Devices(filepath.Join(t.dir, "tree")) {
		kind := map[byte]string{'c': "char", 'b': "block"}[d.Kind]
		out[name] = treeLine{path: name, kind: kind, mode: d.Mode, uid: int(d.UID), gid: int(d.GID),
			content: fmt.Sprintf("%d:%d", d.Major, d.Minor), mtime: -1}
	}
	for name, line := range out {
		e := r[name]
		if e.Label != "" {
			line.attrs = append(line.attrs, labelAttr+"="+strconv.Quote(e.Label))
		}
		if e.Flags != 0 {
			line.attrs = append(line.attrs, flagsAttr+`="i"`)
		}
		out[name] = line
	}
	return out, nil
}

// changes returns the lines that differ, but for ignored paths.
func changes(before, after map[string]treeLine, ignored []string) []treeLine {
	var out []treeLine
	for path, line := range after {
		if old, ok := before[path]; !ok || old.String() != line.String() {
			out = append(out, line)
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			out = append(out, treeLine{path: path, kind: "gone"})
		}
	}
	kept := out[:0]
	for _, line := range out {
		if !isIgnored(line.path, ignored) {
			kept = append(kept, line)
		}
	}
	sort.Slice(kept, func(i, j int) bool { return kept[i].path < kept[j].path })
	return kept
}

func isIgnored(name string, patterns []string) bool {
	for _, pattern := range patterns {
		if dir, ok := strings.CutSuffix(pattern, "/..."); ok && strings.HasPrefix(name, dir+"/") {
			return true
		}
		if ok, err := path.Match(pattern, name); ok || err != nil {
			return true
		}
	}
	return false
}

// arguments is what the engine would put before the stage.
func (t *trees) arguments(c *caseFile, options json.RawMessage) (map[string]any, error) {
	var extra struct {
		SourceEpoch *int64                     `json:"source-epoch"`
		Inputs      map[string]map[string]any  `json:"inputs"`
		Mounts      map[string]map[string]any  `json:"mounts"`
		Sources     map[string]any             `json:"sources"`
		Devices     map[string]json.RawMessage `json:"devices"`
	}
	if text, ok := c.get("args.json"); ok {
		dec := json.NewDecoder(bytes.NewReader(t.fill([]byte(text))))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&extra); err != nil {
			return nil, fmt.Errorf("args.json: %w", err)
		}
	}
	inputs, err := t.arms("inputs", extra.Inputs)
	if err != nil {
		return nil, err
	}
	mounts, err := t.arms("mounts", extra.Mounts)
	if err != nil {
		return nil, err
	}
	devices := extra.Devices
	if devices == nil {
		devices = map[string]json.RawMessage{}
	}
	files, err := os.ReadDir(filepath.Join(t.dir, "devices"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if _, ok := devices[file.Name()]; !ok {
			devices[file.Name()] = json.RawMessage(strconv.AppendQuote([]byte(`{"path": `), filepath.Join(t.dir, "devices", file.Name())))
			devices[file.Name()] = append(devices[file.Name()], '}')
		}
	}
	recorded := ""
	for name, r := range t.records {
		path := filepath.Join(t.dir, "record-"+name)
		if name == "" {
			recorded = path
		} else if inputs[name] != nil {
			inputs[name]["record"] = path
		}
		var data bytes.Buffer
		if err := r.Encode(&data); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, data.Bytes(), 0o644); err != nil {
			return nil, err
		}
	}
	return map[string]any{
		"record": recorded, "tree": filepath.Join(t.dir, "tree"), "options": json.RawMessage(t.fill(options)),
		"meta":   map[string]any{"id": strings.Repeat("0", 64), "source-epoch": extra.SourceEpoch},
		"inputs": inputs, "mounts": mounts, "devices": devices, "sources": extra.Sources,
		"paths": map[string]string{"devices": filepath.Join(t.dir, "devices"), "inputs": filepath.Join(t.dir, "inputs"), "mounts": filepath.Join(t.dir, "mounts")},
	}, nil
}

// fill puts the case's folder, the checksum of its repository's metadata and the
// key of signed packages into options.
func (t *trees) fill(options []byte) []byte {
	options = bytes.ReplaceAll(options, []byte("$CASE"), []byte(t.dir))
	if files, err := filepath.Glob(filepath.Join(t.dir, "tree", "*", "repodata", "repomd.xml")); err == nil && len(files) == 1 {
		data, err := os.ReadFile(files[0])
		if err != nil {
			panic(err) // it was there just now
		}
		options = bytes.ReplaceAll(options, []byte("$REPOMD"), fmt.Appendf(nil, "sha256:%x", sha256.Sum256(data)))
	}
	if !bytes.Contains(options, []byte("$KEY")) {
		return options
	}
	key, err := signingKey()
	if err != nil {
		panic(err) // the packages of the case were signed with it
	}
	quoted, err := json.Marshal(key.public)
	if err != nil {
		panic(err)
	}
	return bytes.ReplaceAll(options, []byte("$KEY"), quoted[1:len(quoted)-1])
}

// arms describes the inputs or mounts that are there or are asked for.
func (t *trees) arms(kind string, extra map[string]map[string]any) (map[string]map[string]any, error) {
	out := map[string]map[string]any{}
	for name := range extra {
		if err := os.MkdirAll(filepath.Join(t.dir, kind, name), 0o755); err != nil {
			return nil, err
		}
	}
	dirs, err := os.ReadDir(filepath.Join(t.dir, kind))
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		path := filepath.Join(t.dir, kind, dir.Name())
		arm := map[string]any{"path": path}
		if kind == "inputs" {
			entries, err := os.ReadDir(path)
			if err != nil {
				return nil, err
			}
			files := map[string]any{}
			for _, entry := range entries {
				if entry.Type().IsRegular() {
					files[entry.Name()] = map[string]any{}
				}
			}
			arm["data"] = map[string]any{"files": files}
		}
		for key, value := range extra[dir.Name()] {
			arm[key] = value
		}
		out[dir.Name()] = arm
	}
	return out, nil
}

// show runs the commands of the case's part "show" on the files that they are
// for and returns what they print, by location.
func (t *trees) show(c *caseFile) (map[string]string, error) {
	out := map[string]string{}
	for _, line := range c.lines("show") {
		where, script, ok := strings.Cut(line, ": ")
		if !ok {
			return nil, fmt.Errorf("show: %q is not LOCATION: COMMAND", line)
		}
		path, err := t.path(where)
		if err != nil {
			return nil, err
		}
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir = t.dir
		cmd.Env = []string{"FILE=" + path, "PATH=" + module.ToolPath, "LC_ALL=C", "TZ=UTC"}
		printed, err := cmd.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("show %s: %w: %s", where, err, printed)
		}
		text := strings.ReplaceAll(string(printed), t.dir, "$CASE")
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		out["shown "+where] = text
	}
	return out, nil
}

// copyTool copies a program of this machine and its libraries to the tree, to
// the same places.
func copyTool(tree, tool string) error {
	found, err := module.LookTool(tool)
	if err != nil {
		return err
	}
	files := []string{found}
	if program, err := elf.Open(found); err == nil {
		defer program.Close()
		out, err := exec.Command("ldd", found).Output()
		if err != nil {
			return fmt.Errorf("ldd: %w", err)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") {
				files = append(files, word)
			}
		}
	}
	for _, link := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if target, err := os.Readlink(link); err == nil {
			if err := os.MkdirAll(filepath.Join(tree, target), 0o755); err != nil {
				return err
			}
			if err := os.Symlink(target, tree+link); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(tree+file), 0o755); err != nil {
			return err
		}
		if old, err := os.ReadFile(tree + file); err == nil && bytes.Equal(old, data) {
			continue
		}
		if err := os.WriteFile(tree+file, data, 0o755); err != nil {
			return err
		}
	}
	return nil
}
