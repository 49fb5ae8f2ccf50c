package sandbox

import (
	"context"
	_ "embed" // for the program below
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/ossify/ossify/overlay"
)

// libraryDir is where Python modules find osbuild's package.
const libraryDir = "/run/osbuild/lib/osbuild"

//go:embed library.py
var compileLibrary string

// LibraryCompiler is the text of CompileLibrary's program, on which what it
// makes depends.
func LibraryCompiler() string { return compileLibrary }

// CompileLibrary compiles the Python package in dir with the Python of the build
// root, for the place where stages see it, and makes it import its parts only
// when they are needed (library.py). layer is what PrepareRoot made of root;
// scratch is as for PrepareStage. What does not compile is left to Python at the
// time of its import.
func (c *Containers) CompileLibrary(ctx context.Context, scratch string, root *BuildRoot, layer *overlay.Stack, dir string, output io.Writer) (err error) {
	id := filepath.Base(scratch)
	p := &PreparedStage{id: id}
	defer func() { err = errors.Join(err, p.Close()) }()
	stack, err := p.directories(filepath.Join(c.dir, id), layer)
	if err != nil {
		return err
	}
	undo, err := c.layout(id+" for compiling", p.dir, append(root.ops(stack), Bind{Source: dir, Target: libraryDir, Writable: true}))
	if err != nil {
		return err
	}
	p.undo = append(p.undo, undo)
	status, err := c.Run(ctx, id, p.dir, &Command{
		Args: []string{pythonPath, "-c", compileLibrary, libraryDir},
		Env:  environment(), Capabilities: DefaultCapabilities, Stdout: output, Stderr: output,
	})
	if err == nil && status != 0 {
		err = fmt.Errorf("%s ended with status %d", pythonPath, status)
	}
	return err
}
