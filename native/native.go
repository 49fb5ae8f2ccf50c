// Package native is this program as its own modules: the table of all families,
// the libdir made of them, and the way into them.
//
// A module starts in this package's initialisation, not in main: a build starts
// two processes of this program for every stage, and what only the engine needs
// would be initialised in each of them. Go initialises packages in the order of
// their import paths as far as dependencies allow (language specification,
// "Program initialization"), so this one, which needs none of the engine's, comes
// first. Sources start in main: they need net/http, which comes late, and a build
// starts each of them once. TestStartsBeforeTheEngine watches over that.
package native

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/assemblers"
	"github.com/ossify/ossify/devices"
	"github.com/ossify/ossify/inputs"
	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/mounts"
	"github.com/ossify/ossify/runners"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/stages"
)

func init() {
	if sandbox.IsContainerInit() {
		sandbox.ContainerInit()
	}
	if sandbox.IsConfined() {
		sandbox.Confine()
	}
	Start(early()...)
}

// Start runs the module that this process was started as and exits, if it is in
// one of the families.
func Start(families ...Family) {
	m, ok := started(families)
	if !ok {
		return
	}
	if err := m.Main(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(exitStatus(err))
	}
	os.Exit(0)
}

// exitStatus is the exit status of a module that failed with err.
func exitStatus(err error) int {
	var withStatus interface{ ExitCode() int }
	if errors.As(err, &withStatus) && withStatus.ExitCode() > 0 {
		return withStatus.ExitCode()
	}
	return 1
}

// Family is one folder of a libdir.
type Family struct {
	// Folder is its name in a libdir, Class what manifests call its members.
	Folder, Class string
	Table         []module.Module
	Schemas       embed.FS
}

// early are the families that a build starts for every stage.
func early() []Family {
	return []Family{
		{"stages", "Stage", stages.All, stages.Schemas},
		{"assemblers", "Assembler", assemblers.All, assemblers.Schemas},
		{"inputs", "Input", inputs.All, inputs.Schemas},
		{"devices", "Device", devices.All, devices.Schemas},
		{"mounts", "Mount", mounts.All, mounts.Schemas},
		{"runners", "Runner", runners.All, runners.Schemas},
	}
}

// Families are all families of native modules; others are those that this package
// leaves to main.
func Families(others ...Family) []Family { return append(early(), others...) }

// caseCounts has a line "FOLDER/NAME ACCEPTED REFUSED" for each module.
//
//go:embed cases.txt
var caseCounts string

// CaseCount is the number of a module's test cases.
type CaseCount struct{ Accepted, Refused int }

// Cases returns the number of test cases by "FOLDER/NAME".
func Cases() (map[string]CaseCount, error) {
	out := map[string]CaseCount{}
	for _, line := range strings.Split(strings.TrimSpace(caseCounts), "\n") {
		var name string
		var count CaseCount
		if _, err := fmt.Sscan(line, &name, &count.Accepted, &count.Refused); err != nil {
			return nil, fmt.Errorf("internal error: cases.txt: %q: %w", line, err)
		}
		out[name] = count
	}
	return out, nil
}

// foreignModules has a line "FOLDER/NAME" for each of osbuild's modules that is
// not native: those of the ostree family, bootc, OpenSCAP, FDO, flatpak, LUKS, LVM,
// Anaconda, Lorax, Red Hat's subscriptions, CoreOS and others.
//
//go:embed foreign.txt
var foreignModules string

// Foreign says whether osbuild has a module of that name in that folder of a
// libdir, and this program has none.
func Foreign(folder, name string) bool {
	return strings.Contains("\n"+foreignModules, "\n"+folder+"/"+name+"\n")
}

// started returns the module that this process was started as: by its name, and
// by its family, which is the folder of a host service and a variable inside the
// sandbox.
func started(families []Family) (module.Module, bool) {
	name := filepath.Base(os.Args[0])
	if !strings.HasPrefix(name, "org.") {
		return module.Module{}, false
	}
	folder := filepath.Base(filepath.Dir(os.Args[0]))
	class := os.Getenv(sandbox.ClassEnv)
	for _, f := range families {
		if f.Folder != folder && f.Class != class {
			continue
		}
		if m, ok := module.Find(f.Table, name); ok {
			return m, true
		}
	}
	return module.Module{}, false
}

// Libdir makes a libdir of this program's modules in dir, an empty directory:
// those of this package and those of the other families. It holds a copy of the
// program, so that a build goes on with what it started with while the program
// is replaced.
func Libdir(dir string, others ...Family) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	if err := copyProgram(filepath.Join(dir, "bin", "ossify")); err != nil {
		return err
	}
	for _, f := range append(early(), others...) {
		folder := filepath.Join(dir, f.Folder)
		if err := os.Mkdir(folder, 0o755); err != nil {
			return err
		}
		for _, m := range f.Table {
			if err := os.Symlink("../bin/ossify", filepath.Join(folder, m.Name)); err != nil {
				return err
			}
			meta := m.Name + ".meta.json"
			data, err := fs.ReadFile(f.Schemas, meta)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(folder, meta), data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyProgram(path string) error {
	src, err := os.Open(sandbox.Program())
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
