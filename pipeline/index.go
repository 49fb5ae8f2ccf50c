package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// folders are the families of modules and their folders in a libdir.
var folders = map[string]string{
	"Stage": "stages", "Assembler": "assemblers", "Source": "sources", "Input": "inputs",
	"Device": "devices", "Mount": "mounts", "Runner": "runners",
}

// Module is an executable of a libdir with its description.
type Module struct {
	// Class is the family: "Stage", "Assembler", "Source", "Input",
	// "Device" or "Mount".
	Class, Name string
	// Path is the executable's, Libdir that of the libdir it is in.
	Path, Libdir string
	Meta         Meta
}

// Meta is a module's NAME.meta.json.
type Meta struct {
	Summary      string          `json:"summary"`
	Capabilities []string        `json:"capabilities"`
	Schema       json.RawMessage `json:"schema"`
	Schema2      json.RawMessage `json:"schema_2"`
	// Setup is "once" for a runner whose set-up of a build root may be kept
	// for all its stages.
	Setup string `json:"setup"`
	// Network gives a stage the network of the engine.
	Network bool `json:"network"`
	// Sources are those whose items, and secrets, a stage gets in its arguments.
	Sources []string `json:"sources"`
	// Storage is "read-only" for a source that can do with a container storage that it
	// cannot change, as tools made of podman's library cannot.
	Storage string `json:"storage"`
	// Disk says that a stage or assembler writes disks, in ways that the user
	// can choose from.
	Disk bool `json:"disk"`
	// Root says that a mount needs root of the machine.
	Root bool `json:"root"`
	// Offline says how the engine does what a device or mount module does where
	// it cannot have loop devices and kernel mounts, "" if it cannot.
	Offline string `json:"offline"`
}

// Index finds modules in libdirs. It is not safe for concurrent use.
type Index struct {
	// Foreign, if not nil, says whether a module of that name in that folder is
	// known to be in another libdir; it is asked for better messages.
	Foreign func(folder, name string) bool
	libdirs []string
	modules map[[2]string]*Module
	schemas map[[3]string]*schema
	runners []runnerInfo
}

// OpenIndex looks modules up in the libdirs, of which the first that has a
// module wins.
func OpenIndex(libdirs ...string) (*Index, error) {
	ix := &Index{modules: map[[2]string]*Module{}, schemas: map[[3]string]*schema{}}
	for _, dir := range libdirs {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("libdir: %w", err)
		}
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return nil, fmt.Errorf("libdir %s is not a directory", dir)
		}
		ix.libdirs = append(ix.libdirs, dir)
	}
	return ix, nil
}

// Module returns the module of that class and name; an error that is
// fs.ErrNotExist says that no libdir has it.
func (ix *Index) Module(class, name string) (*Module, error) {
	key := [2]string{class, name}
	if m := ix.modules[key]; m != nil {
		return m, nil
	}
	if name != filepath.Base(name) || strings.HasSuffix(name, ".meta.json") {
		return nil, fmt.Errorf("%q is no module name: %w", name, fs.ErrNotExist)
	}
	var odd error
	for _, dir := range ix.libdirs {
		path := filepath.Join(dir, folders[class], name)
		if err := isProgram(path); err != nil {
			if odd == nil && !errors.Is(err, fs.ErrNotExist) {
				odd = err
			}
			continue
		}
		m := &Module{Class: class, Name: name, Path: path, Libdir: dir}
		var err error
		if m.Meta, err = readMeta(path); err != nil {
			return nil, err
		}
		ix.modules[key] = m
		return m, nil
	}
	if odd != nil {
		return nil, odd
	}
	return nil, fmt.Errorf("no %s %q: %w", strings.ToLower(class), name, fs.ErrNotExist)
}

// isProgram returns an error if there is no regular file at path, which is
// fs.ErrNotExist if there is nothing at all.
func isProgram(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, linkErr := os.Lstat(path); linkErr == nil {
			return fmt.Errorf("the module %s is a symbolic link to nothing", path)
		}
	}
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("the module %s is %s, not a program", path, kindOf(st.Mode()))
	}
	return nil
}

// kindOf says what a file is that is no regular one.
func kindOf(mode os.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&os.ModeNamedPipe != 0:
		return "a fifo"
	case mode&os.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// maxText bounds what is read of a libdir to describe a module, in bytes.
const maxText = 16 << 20

// readText reads a regular file of a libdir.
func readText(path string) ([]byte, error) {
	// A fifo must not keep us waiting.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is %s, not a file", path, kindOf(st.Mode()))
	}
	if st.Size() > maxText {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", path, st.Size(), maxText)
	}
	return io.ReadAll(io.LimitReader(f, maxText))
}

// readMeta reads a module's description: NAME.meta.json or, for the older of
// osbuild's modules, which have none, the program itself.
func readMeta(path string) (meta Meta, err error) {
	data, err := readText(path + ".meta.json")
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = readText(path); err != nil {
			return meta, fmt.Errorf("description of %s: %w", path, err)
		}
		if meta, err = pythonMeta(string(data)); err != nil {
			return meta, fmt.Errorf("%s has no .meta.json, and describes itself in no way that is known: %w", path, err)
		}
		return meta, nil
	}
	if err != nil {
		return meta, fmt.Errorf("description of %s: %w", path, err)
	}
	return decodeMeta(path, data)
}

func decodeMeta(path string, data []byte) (meta Meta, err error) {
	err = json.Unmarshal(data, &meta)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return meta, nil
	case errors.As(err, &wrong) && wrong.Field != "":
		err = fmt.Errorf("%q is a JSON %.50s", wrong.Field, wrong.Value)
	case wrong != nil:
		err = fmt.Errorf("it is a JSON %.50s, not an object", wrong.Value)
	}
	return meta, fmt.Errorf("%s.meta.json: %w", path, err)
}

// Names lists the modules of a class in all libdirs, sorted.
func (ix *Index) Names(class string) []string {
	seen := map[string]bool{}
	var names []string
	for _, dir := range ix.libdirs {
		entries, err := os.ReadDir(filepath.Join(dir, folders[class]))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if name := e.Name(); !strings.HasSuffix(name, ".meta.json") && !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	sort.Strings(names)
	return names
}

// runnerInfo is a runner of a libdir; its name is a distribution and a version.
type runnerInfo struct {
	distro, path string
	version      int
}

// splitRunner splits a runner's name before its last digits; without any the
// version is 0 (osbuild/meta.py, RunnerInfo).
func splitRunner(name string) (distro string, version int) {
	i := len(name)
	for i > 1 && name[i-1] >= '0' && name[i-1] <= '9' {
		i--
	}
	version, err := strconv.Atoi(name[i:])
	if errors.Is(err, strconv.ErrSyntax) {
		return name, 0
	}
	return name[:i], version // the largest int, if it is larger
}

// Runner returns the runner with that name or the nearest older version of it.
func (ix *Index) Runner(name string) (Runner, error) {
	if ix.runners == nil {
		for _, dir := range ix.libdirs {
			entries, err := os.ReadDir(filepath.Join(dir, "runners"))
			if err != nil {
				continue
			}
			for _, e := range entries {
				if strings.HasSuffix(e.Name(), ".meta.json") {
					continue
				}
				distro, version := splitRunner(e.Name())
				ix.runners = append(ix.runners, runnerInfo{distro, filepath.Join(dir, "runners", e.Name()), version})
			}
		}
		// Stable: of the same runner the first libdir's stays first.
		sort.SliceStable(ix.runners, func(i, j int) bool { return ix.runners[i].version > ix.runners[j].version })
	}
	distro, version := splitRunner(name)
	for _, r := range ix.runners {
		if r.distro != distro || r.version > version {
			continue
		}
		runner := Runner{Name: name, Path: r.path}
		err := isProgram(r.path)
		if err != nil {
			return runner, err
		}
		if runner.Meta, err = runnerMeta(r.path); !errors.Is(err, fs.ErrNotExist) {
			return runner, err
		}
		// osbuild's runners have no description. They prepare the build root
		// and start the module in it, as those of the same name do that say
		// that this need not be repeated.
		for _, other := range ix.runners {
			if meta, err := runnerMeta(other.path); err == nil && other.distro == distro {
				runner.Meta = meta
				break
			}
		}
		return runner, nil
	}
	return Runner{}, fmt.Errorf("no runner %q and no older one of %q: %w", name, distro, fs.ErrNotExist)
}

func runnerMeta(path string) (meta Meta, err error) {
	data, err := readText(path + ".meta.json")
	if err != nil {
		return meta, fmt.Errorf("description of runner: %w", err)
	}
	return decodeMeta(path, data)
}

// HostRunner returns the runner for this host, by os-release(5).
func (ix *Index) HostRunner() (Runner, error) {
	id, version := "linux", ""
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(data), "\n") {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			value = strings.Trim(value, `"'`)
			switch {
			case ok && key == "ID":
				id = value
			case ok && key == "VERSION_ID":
				version = value
			}
		}
		break
	}
	r, err := ix.Runner("org.osbuild." + id + strings.ReplaceAll(version, ".", ""))
	if errors.Is(err, fs.ErrNotExist) {
		// A derivative that nobody has named yet still has a /usr.
		r, err = ix.Runner("org.osbuild.linux")
	}
	// Nobody asked for a certain version, so it is called what it is.
	r.Name = filepath.Base(r.Path)
	return r, err
}
