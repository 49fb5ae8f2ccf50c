package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ossify/ossify/compose"
	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/sandbox"
	"github.com/spf13/cobra"
)

type composeOptions struct {
	storeOptions
	compose.Options
	output       string
	manifestOnly bool
}

func composeCommand() *cobra.Command {
	var o composeOptions
	cmd := &cobra.Command{
		Use:   "compose BLUEPRINT",
		Short: "Make a pinned manifest of a blueprint, and the image of that",
		Long:  "Asks the distribution's package solver what the blueprint's packages need, pins every package by URL,\nsize and checksum in a manifest, and builds it.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("one blueprint is needed, got %d arguments", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.manifestOnly && cmd.Flags().Changed("output-directory") {
				return usageError{errors.New("--manifest-only prints the manifest: redirect it, and leave out --output-directory")}
			}
			return composeImage(cmd.Context(), args[0], &o)
		},
	}
	o.storeOptions.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Distro, "distro", "", "distribution (default: the blueprint's, or debian-12)")
	f.StringVar(&o.Type, "type", "qcow2", "what to make: qcow2, raw or tar")
	f.StringVar(&o.Compression, "compression", "zstd", "of a qcow2 image: none, zlib or zstd")
	f.StringVarP(&o.output, "output-directory", "o", "output", "directory for the image")
	f.BoolVar(&o.manifestOnly, "manifest-only", false, "print the manifest and build nothing")
	f.StringVar(&o.Mirror, "mirror", "", "URL of the archive (default: what the host's apt uses for the release)")
	f.StringVar(&o.SecurityMirror, "security-mirror", "", "URL of the archive of security updates that goes with --mirror")
	f.StringVar(&o.Snapshot, "snapshot", "", "URL of the archive as it was at some date")
	f.StringArrayVar(&o.Repositories, "repository", nil, "URL of a repository of RPM, in place of a mirror's (can be given several times)")
	f.StringArrayVar(&o.Exclude, "exclude", nil, "package of RPM, or pattern, that is not to be installed (can be given several times)")
	f.BoolVar(&o.WeakDependencies, "weak-dependencies", false, "install recommended packages too")
	f.StringVar(&o.Keyring, "keyring", "", "file with the keys that sign the archive, or the packages of RPM")
	f.StringVar(&o.SolverRoot, "solver-root", "", "tree whose apt is used instead of the host's")
	f.StringVar(&o.BuildRoot, "build-root", "host", "where the stages' tools come from: host, or tree for a build pipeline")
	f.DurationVar(&o.MaxAge, "max-age", 10*time.Minute, "how old package lists may be before the mirror is asked again")
	return cmd
}

func composeImage(ctx context.Context, path string, o *composeOptions) (err error) {
	bp, err := compose.ReadBlueprint(path)
	if err != nil {
		return usageError{err}
	}
	if o.SolverRoot != "" {
		if o.SolverRoot, err = filepath.Abs(o.SolverRoot); err != nil {
			return err
		}
	}
	target, _, err := compose.Output(o.Type)
	if err != nil {
		return usageError{err}
	}
	if err := sandbox.EnterNamespace(); err != nil {
		return err
	}
	mon := newMonitor(o.quiet || o.manifestOnly)
	defer mon.Close()
	e, err := openEngine(&o.storeOptions, mon)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()

	start := time.Now()
	o.StateDir = filepath.Join(e.store.Dir(), "solver")
	o.Exec = e.solverCommand
	mon.Log("solving packages")
	data, err := compose.Manifest(ctx, bp, o.Options)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if o.manifestOnly {
		_, err := os.Stdout.Write(data)
		return err
	}
	m, err := pipeline.Load(path, data, e.index)
	if err != nil {
		return fmt.Errorf("internal error: compose made a manifest that does not load: %w", err)
	}
	remote, err := o.remote.open(data)
	if err != nil {
		return err
	}
	opts := pipeline.RunOptions{
		Remote: remote,
		Helper: o.helper, DiskWriter: string(o.writer),
		Store: e.store, Containers: e.containers, Monitor: mon,
		Targets: []*pipeline.Pipeline{m.Pipeline(target)},
	}
	res, err := m.Run(ctx, opts)
	if err != nil {
		return diskFull(err, e.store.Dir())
	}
	if err := os.MkdirAll(o.output, 0o755); err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	layer, err := builtTree(res, m.Pipeline(target))
	if err != nil {
		return err
	}
	done, err := exportFiles(e, layer, o.output)
	if err != nil {
		return diskFull(err, o.output)
	}
	if err := e.shrink(&o.storeOptions); err != nil {
		return err
	}
	mon.Close()
	if !o.quiet {
		summary(res, time.Since(start))
		for _, name := range done.Files {
			tellImage(filepath.Join(o.output, name), o.Type)
		}
	}
	return nil
}

// tellImage says where the image is and what to do with it.
func tellImage(path, kind string) {
	size := ""
	if st, err := os.Stat(path); err == nil {
		size = " (" + monitor.Bytes(st.Size()) + ")"
	}
	fmt.Printf("\nimage: %s%s\n", path, size)
	if kind != "tar" {
		fmt.Printf("boot:  %s boot %s\n", programName(), path)
	}
}

// programName is how the user started this program, before it started itself
// in a user namespace.
func programName() string {
	return strings.TrimSuffix(os.Args[0], "-in-a-user-namespace")
}

// solverCapabilities let apt fetch as a user of its own, and files be of several users.
var solverCapabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"}

// solverCommand runs a program of the package solver in a container that sees
// the host's, or the given tree's, /usr and what the call binds: nothing of the
// user's, and of the store the solver's own folder.
func (e *engine) solverCommand(ctx context.Context, c compose.Command) error {
	scratch, remove, err := e.store.Scratch("solver-")
	if err != nil {
		return err
	}
	defer remove()
	root := &sandbox.BuildRoot{Tree: "/"}
	if c.Root != "" {
		root.Tree = c.Root
	}
	var binds []sandbox.Bind
	for _, b := range c.Binds {
		binds = append(binds, sandbox.Bind{Source: b.Source, Target: b.Target, Writable: b.Writable})
	}
	program, err := findProgram(root.Tree, c.Argv[0])
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	out, errOut := c.Stdout, c.Stderr
	if out == nil {
		out = io.Discard
	}
	if errOut == nil {
		errOut = &stderr
	}
	status, err := e.containers.RunTool(ctx, scratch, root, binds, &sandbox.Command{
		Args: append([]string{program}, c.Argv[1:]...), Env: c.Env, Network: c.Network, Capabilities: solverCapabilities,
		Stdout: out, Stderr: errOut,
	})
	if err != nil {
		return err
	}
	if status != 0 {
		return &commandFailed{name: c.Argv[0], status: status, stderr: stderr.String()}
	}
	return nil
}

// commandFailed is a program of the solver that ended with an error.
type commandFailed struct {
	name   string
	status int
	stderr string
}

func (e *commandFailed) Error() string {
	if e.stderr != "" {
		return fmt.Sprintf("%s: exit status %d: %s", e.name, e.status, e.stderr)
	}
	return fmt.Sprintf("%s: exit status %d", e.name, e.status)
}

// findProgram returns the path inside root of a program that is named without
// one.
func findProgram(root, name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range []string{"/usr/bin", "/usr/sbin"} {
		if _, err := os.Lstat(filepath.Join(root, dir, name)); err == nil {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("%s is not in %s: %w", name, filepath.Join(root, "usr/bin"), os.ErrNotExist)
}
