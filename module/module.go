package module

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/jsoncomm"
	"github.com/ossify/ossify/record"
)

// Paths of the ABI inside the sandbox, as osbuild/buildroot.py lays them out.
const (
	ArgumentsPath = "/run/osbuild/api/arguments"
	ErrorSocket   = "/run/osbuild/api/osbuild"
	MetaPath      = "/run/osbuild/meta"
	// RecordPath is where a stage leaves the tree's side record if it changes it.
	RecordPath = "/run/osbuild/record"
)

// Module is one native module: an entry of a family's table.
type Module struct {
	// Name is the name in the manifest, such as "org.osbuild.hostname".
	Name string
	// Main runs the module in this process with the program's arguments
	// (without argv[0]) and returns when its work is done.
	Main func(ctx context.Context, argv []string) error
}

// Args are the arguments of a stage or assembler.
type Args struct {
	// Tree is the directory that the stage changes.
	Tree string `json:"tree"`
	// Record is the file with the tree's side record, "" if there is none.
	Record string `json:"record"`
	// Options are the stage's options as they stand in the manifest.
	Options json.RawMessage `json:"options"`
	Meta    struct {
		// ID is the stage's id.
		ID string `json:"id"`
		// SourceEpoch is the pipeline's source-epoch in seconds, or nil.
		SourceEpoch *int64 `json:"source-epoch"`
	} `json:"meta"`
	// Sources are those that the stage's .meta.json names, by name.
	Sources map[string]SourceItems `json:"sources"`
	// Inputs by name; their paths are absolute inside the sandbox.
	Inputs map[string]Input `json:"inputs"`
	// Devices by name, as the device's service returned them.
	Devices map[string]json.RawMessage `json:"devices"`
	// Mounts by name.
	Mounts map[string]Mount `json:"mounts"`
	// DiskWriter is how a stage that writes disks is to write filesystems: "" is
	// offline, "mounted" by MakeFilesystem, "auto" so where offline is impossible.
	DiskWriter string `json:"disk-writer"`
	Paths      struct {
		Devices string `json:"devices"`
		Inputs  string `json:"inputs"`
		Mounts  string `json:"mounts"`
	} `json:"paths"`
}

// SourceItems is what a stage gets of a source.
type SourceItems struct {
	// Items by checksum, as they stand in the manifest.
	Items map[string]json.RawMessage `json:"items"`
	// Secrets are what --secrets has for the source; may be null.
	Secrets json.RawMessage `json:"secrets"`
}

// Input is what an input service mapped for the stage.
type Input struct {
	Path string `json:"path"`
	// Record is the file with the side record of a tree, "" if there is none.
	Record string `json:"record"`
	Data   struct {
		// Files holds the metadata of each file, by path below Path.
		Files map[string]map[string]any `json:"files"`
		// Archives describes images of containers, by their names below Path.
		Archives json.RawMessage `json:"archives"`
	} `json:"data"`
}

// Mount is a mounted filesystem; Path is absolute inside the sandbox.
type Mount struct {
	Path string `json:"path"`
	// Record is the file with the mount's side record, in which a stage leaves
	// what it cannot store there; "" for a mount that takes everything.
	Record string `json:"record"`
}

// InTree joins a path of the manifest to the tree. It refuses a path that
// leaves the tree lexically; symbolic links are the caller's concern.
func (a *Args) InTree(path string) (string, error) {
	clean := filepath.Clean("/" + path)
	for _, part := range strings.Split(path, "/") {
		if part == ".." {
			return "", fmt.Errorf("path %q leaves the tree", path)
		}
	}
	return filepath.Join(a.Tree, clean), nil
}

// Stage makes a table entry of a stage or assembler whose options decode into
// O. The schema has been checked by the engine before the stage is started.
func Stage[O any](name string, run func(ctx context.Context, args *Args, options O) error) Module {
	return Module{Name: name, Main: func(ctx context.Context, _ []string) error {
		err := runStage(ctx, run)
		if err != nil {
			reportError(err)
		}
		return err
	}}
}

func runStage[O any](ctx context.Context, run func(context.Context, *Args, O) error) error {
	data, err := os.ReadFile(ArgumentsPath)
	if err != nil {
		return fmt.Errorf("read arguments: %w", err)
	}
	var args Args
	if err := json.Unmarshal(data, &args); err != nil {
		return fmt.Errorf("decode arguments: %w", err)
	}
	return Run(ctx, &args, run)
}

// Run decodes the options of args and runs the stage; tests use it too.
func Run[O any](ctx context.Context, args *Args, run func(context.Context, *Args, O) error) error {
	var options O
	if len(args.Options) > 0 {
		if err := json.Unmarshal(args.Options, &options); err != nil {
			return fmt.Errorf("decode options: %w", err)
		}
	}
	return run(ctx, args, options)
}

// reportError sends err to the engine, in the form of osbuild's exceptions.
// Outside a sandbox there is no socket and the exit status says enough.
func reportError(err error) {
	conn, dialErr := jsoncomm.Dial(ErrorSocket)
	if dialErr != nil {
		return
	}
	defer conn.Close()
	_ = conn.Send(map[string]any{
		"method": "exception",
		"exception": map[string]string{
			"type":      errorType(err),
			"value":     err.Error(),
			"traceback": "",
		},
	})
}

func errorType(err error) string {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return "OSError"
	}
	return "StageError"
}

// SetMetadata writes the stage's metadata, which the engine puts into its
// result under the stage's name.
func SetMetadata(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode metadata: %w", err)
	}
	if err := os.WriteFile(MetaPath, data, 0o644); err != nil {
		return fmt.Errorf("write metadata: %w", err)
	}
	return nil
}

// SetRecord leaves r as the tree's side record. It holds all entries, also those
// that were there before.
func SetRecord(r record.Record) error { return WriteRecord(RecordPath, r) }

// WriteRecord leaves r as the side record in the file name, that of a mount.
func WriteRecord(name string, r record.Record) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write side record: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return r.Encode(f)
}

// Find returns the module of that name, or false.
func Find(table []Module, name string) (Module, bool) {
	for _, m := range table {
		if m.Name == name {
			return m, true
		}
	}
	return Module{}, false
}
