package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
)

type buildOptions struct {
	storeOptions
	monitor     monitorOptions
	early       earlyOptions
	checkpoints []string
	exports     []string
	output      string
	json        bool
	inspect     bool
	timeout     int
	breakAt     string
	verify      bool
	inVM        []string
	// osbuild says that this program was started under that name.
	osbuild bool
}

func (o *buildOptions) addFlags(cmd *cobra.Command) {
	o.storeOptions.addFlags(cmd)
	o.monitor.addFlags(cmd)
	o.early.addFlags(cmd)
	f := cmd.Flags()
	o.addTargets(cmd)
	f.StringVar(&o.output, "output-directory", "", "directory for exports")
	f.BoolVar(&o.json, "json", false, "print the result as JSON")
	f.BoolVar(&o.inspect, "inspect", false, "print the manifest with all ids as JSON and build nothing")
	f.IntVar(&o.timeout, "stage-timeout", 0, "seconds that a stage may take, with its inputs, 0 for no limit; downloads have none")
	f.BoolVar(&o.verify, "verify", false, "read the checkpoints that the build uses first, and end if one has changed since it was made")
	f.StringVar(&o.breakAt, "break", "", "open a shell in the sandbox of the stage with that name or id, or of each stage, just before it runs")
	f.Lookup("break").NoOptDefVal = pipeline.BreakEverywhere
	f.StringArrayVar(&o.inVM, "in-vm", nil, "pipeline that osbuild would run in a virtual machine; here it runs as all others do")
}

// addTargets adds what says which pipelines are built.
func (o *buildOptions) addTargets(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.checkpoints, "checkpoint", nil, "pipeline, stage or id to build and report (glob; can be given several times); every stage is a checkpoint anyway")
	f.StringArrayVar(&o.exports, "export", nil, "pipeline, by name or id, whose tree is copied to the output directory, all files yours unless you are root; NAME:tar makes NAME.tar with the true owners (can be given several times)")
}

func readManifest(path string) (name string, data []byte, err error) {
	if path == "-" {
		data, err = io.ReadAll(os.Stdin)
		return "<stdin>", data, err
	}
	data, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, usageError{fmt.Errorf("manifest %s does not exist", path)}
	}
	return path, data, err
}

func buildManifest(ctx context.Context, path string, o *buildOptions) (err error) {
	if len(o.exports) > 0 && o.output == "" && !o.osbuild {
		return usageError{errors.New("--export needs --output-directory")}
	}
	if err := o.monitor.check(); err != nil {
		return err
	}
	if err := o.enter(path); err != nil {
		return err
	}
	name, data, err := readManifest(path)
	if err != nil {
		return err
	}
	if data, err = o.early.apply(name, data); err != nil {
		return err
	}
	mon := o.openMonitor(path)
	defer mon.Close()
	e, err := openEngine(&o.storeOptions, mon)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	m, err := load(ctx, name, data, e.index)
	if err != nil {
		return o.reportInvalid(err)
	}
	if err := o.early.check(m); err != nil {
		return err
	}
	targets, err := o.targets(m)
	if err != nil {
		return err
	}
	if o.inspect {
		_, err = fmt.Printf("%s\n", pipeline.Describe(m))
		return err
	}
	if len(o.exports) > 0 && o.output == "" {
		return told("Need --output-directory for --export")
	}
	return o.build(ctx, e, m, targets, data)
}

// openMonitor makes the monitor that was asked for; a shell needs the terminal
// for itself.
func (o *buildOptions) openMonitor(path string) monitor.Monitor {
	silent := o.quiet || o.json || o.inspect
	if o.monitor.name == "" && !silent && (o.osbuild || o.breakAt != "") {
		o.monitor.name = "LogMonitor"
		if !o.osbuild && o.monitor.fd == 1 {
			o.monitor.fd = 2
		}
	}
	return o.monitor.open(path, silent)
}

// build runs the manifest, whose text is data, exports what was asked for and says how it went.
func (o *buildOptions) build(ctx context.Context, e *engine, m *pipeline.Manifest, targets []*pipeline.Pipeline, data []byte) error {
	start := time.Now()
	opts := o.runOptions(e, targets)
	var err error
	if opts.Remote, err = o.remote.open(data); err != nil {
		return err
	}
	if o.breakAt != "" {
		opts.Break = &pipeline.Break{At: o.breakAt, Terminal: sandbox.Terminal{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}}
	}
	res, runErr := m.Run(ctx, opts)
	runErr = diskFull(runErr, e.store.Dir())
	if runErr == nil {
		if err := o.export(ctx, e, m, res); err != nil {
			return err
		}
	}
	if err := e.shrink(&o.storeOptions); err != nil {
		return err
	}
	e.monitor.Close()
	if invalid := (*pipeline.ValidationError)(nil); errors.As(runErr, &invalid) {
		return o.reportInvalid(runErr)
	}
	if o.json {
		if err := pipeline.WriteResult(os.Stdout, m, opts, res, runErr); err != nil {
			return err
		}
		if runErr != nil && !errors.Is(runErr, errInterrupted) {
			return reportedError{exitFailed}
		}
		return runErr
	}
	switch {
	case o.quiet:
	case o.osbuild:
		return o.answer(e, m, opts, runErr)
	case o.monitor.name == "JSONSeqMonitor" && o.monitor.fd == 1:
		// Standard output is for records.
	default:
		summary(res, time.Since(start))
		if runErr == nil {
			tellIDs(m, targets)
		}
	}
	return runErr
}

// runOptions are what a build of the targets needs.
func (o *buildOptions) runOptions(e *engine, targets []*pipeline.Pipeline) pipeline.RunOptions {
	return pipeline.RunOptions{
		Helper: o.helper, DiskWriter: string(o.writer),
		Store: e.store, Containers: e.containers, Monitor: e.monitor,
		Targets: targets, AllSources: o.osbuild, StageTimeout: time.Duration(o.timeout) * time.Second,
		Secrets: o.early.loaded, Verify: o.verify,
	}
}

// load is pipeline.Load, but for the end of ctx: a module's schema can be made so
// that checking against it takes for ever.
func load(ctx context.Context, name string, data []byte, index *pipeline.Index) (*pipeline.Manifest, error) {
	var m *pipeline.Manifest
	done := make(chan error, 1)
	go func() {
		var err error
		m, err = pipeline.Load(name, data, index)
		done <- err
	}()
	select {
	case err := <-done:
		return m, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// tellIDs prints the ids of what was built; manifests of format 1 have two.
func tellIDs(m *pipeline.Manifest, targets []*pipeline.Pipeline) {
	for _, p := range targets {
		fmt.Printf("%s:\t%s\n", p.Name, p.ID())
	}
	if m.Version == "1" {
		tellEarlyIDs(m)
	}
}

// export writes what --export asks for. Without it, the output of a manifest of
// format 1 is left in the store, where osbuild's first releases had it.
func (o *buildOptions) export(ctx context.Context, e *engine, m *pipeline.Manifest, res *pipeline.Result) error {
	for _, spec := range o.exports {
		p, tar := exported(m, spec)
		layer, err := builtTree(res, p)
		if err == nil && tar {
			err = exportTar(ctx, e, layer, o.output, strings.TrimSuffix(spec, tarSuffix))
		} else if err == nil {
			var done *store.Exported
			if done, err = exportFiles(e, layer, filepath.Join(o.output, spec)); err == nil {
				o.tellExport(p, done)
			}
		}
		if err != nil {
			return diskFull(err, o.output)
		}
	}
	if p := m.Pipeline("assembler"); m.Version == "1" && p != nil && len(o.exports) == 0 && !o.osbuild {
		return keepOutput(e, res, p)
	}
	return nil
}

// tellExport says what of a tree did not become files as they are in it.
func (o *buildOptions) tellExport(p *pipeline.Pipeline, done *store.Exported) {
	if o.quiet {
		return
	}
	if done.Foreign > 0 {
		fmt.Fprintf(os.Stderr, "ossify: note: %d of the exported files of pipeline %s belong to other users in its tree, and to you here; --export %s%s keeps the owners\n",
			done.Foreign, p.Name, p.Name, tarSuffix)
	}
	if n := len(done.LeftOut); n > 0 {
		fmt.Fprintf(os.Stderr, "ossify: note: the export of pipeline %s is without %d devices, pipes or sockets, such as %s; --export %s%s has them\n",
			p.Name, n, done.LeftOut[0], p.Name, tarSuffix)
	}
	o.tellUnlabelled(p, done.Unlabelled)
}

// tellUnlabelled says that what a side record has is not in an exported directory.
func (o *buildOptions) tellUnlabelled(p *pipeline.Pipeline, n int) {
	if o.quiet || n == 0 {
		return
	}
	fmt.Fprintf(os.Stderr, "ossify: note: the export of pipeline %s is without %d SELinux labels and inode flags, which only root may set; --export %s%s has the labels\n",
		p.Name, n, p.Name, tarSuffix)
}

// reportInvalid prints a manifest's faults as osbuild does, as JSON where that
// was asked for.
func (o *buildOptions) reportInvalid(err error) error {
	var invalid *pipeline.ValidationError
	if !errors.As(err, &invalid) {
		return err
	}
	if o.json || o.inspect {
		if _, err := fmt.Printf("%s\n", invalid.JSON()); err != nil {
			return err
		}
		return reportedError{exitInvalid}
	}
	if o.osbuild {
		return answerInvalid(invalid)
	}
	return err
}

// targets turns --export and --checkpoint into pipelines; without either
// everything is built.
func (o *buildOptions) targets(m *pipeline.Manifest) ([]*pipeline.Pipeline, error) {
	if o.osbuild {
		return o.osbuildTargets(m)
	}
	for _, name := range o.inVM {
		if m.Pipeline(name) == nil {
			return nil, usageError{fmt.Errorf("--in-vm %q is no pipeline of %s; it has: %s", name, m.Name, strings.Join(m.Names(), ", "))}
		}
	}
	var targets []*pipeline.Pipeline
	for _, name := range o.exports {
		p, _ := exported(m, name)
		if p == nil {
			return nil, fmt.Errorf("export %q is no pipeline of %s; it has: %s", name, m.Name, strings.Join(m.Names(), ", "))
		}
		targets = appendNew(targets, p)
	}
	for _, pattern := range o.checkpoints {
		matched := m.Match(pattern)
		if len(matched) == 0 {
			return nil, fmt.Errorf("checkpoint %q matches no pipeline, stage or id of %s", pattern, m.Name)
		}
		for _, s := range matched {
			targets = appendNew(targets, s.Pipeline)
		}
	}
	if len(targets) == 0 {
		targets = m.Pipelines
	}
	return targets, nil
}

func appendNew(list []*pipeline.Pipeline, p *pipeline.Pipeline) []*pipeline.Pipeline {
	if slices.Contains(list, p) {
		return list
	}
	return append(list, p)
}

// tarSuffix of an argument of --export asks for an archive.
const tarSuffix = ":tar"

// exported is the pipeline of an argument of --export, nil if there is none, and
// whether it is wanted as an archive.
func exported(m *pipeline.Manifest, spec string) (p *pipeline.Pipeline, tar bool) {
	if p := m.Pipeline(spec); p != nil {
		return p, false
	}
	name, tar := strings.CutSuffix(spec, tarSuffix)
	return m.Pipeline(name), tar
}

// builtTree is the tree of a pipeline that was built.
func builtTree(res *pipeline.Result, p *pipeline.Pipeline) (*store.Layer, error) {
	layer := res.Tree(p)
	if layer == nil {
		return nil, fmt.Errorf("pipeline %q has no stages, so there is nothing to export", p.Name)
	}
	return layer, nil
}

// exportFiles copies a tree to dir.
func exportFiles(e *engine, layer *store.Layer, dir string) (*store.Exported, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("export to %s: %w", dir, err)
	}
	return e.store.Export(layer, dir, store.ExportOptions{KeepOwners: keepOwners()})
}

// keepOwners says whether exported files can have any owner: root's can, unless
// the variable that osbuild has for it says otherwise.
func keepOwners() bool {
	return realRoot() && os.Getenv("OSBUILD_EXPORT_FORCE_NO_PRESERVE_OWNER") != "1"
}

// realRoot says whether the user is root on the machine; it holds before and
// after the namespace is entered.
func realRoot() bool {
	return os.Geteuid() == 0 && os.Getenv("_CONTAINERS_ROOTLESS_UID") == ""
}

// exportTar writes a tree to output/NAME.tar.
func exportTar(ctx context.Context, e *engine, layer *store.Layer, output, name string) error {
	if err := os.MkdirAll(output, 0o755); err != nil {
		return fmt.Errorf("export to %s: %w", output, err)
	}
	return e.store.ExportTar(ctx, layer, filepath.Join(output, name+".tar"))
}

// diskFull adds what to do to an error that a full filesystem has caused,
// directly or inside a stage.
func diskFull(err error, dir string) error {
	if err == nil {
		return nil
	}
	const words = "no space left on device"
	full := errors.Is(err, syscall.ENOSPC) || strings.Contains(strings.ToLower(err.Error()), words)
	var failed *pipeline.StageFailed
	if errors.As(err, &failed) {
		full = full || strings.Contains(strings.ToLower(failed.Result.Output), words)
	}
	if !full {
		return err
	}
	return fmt.Errorf("%w; the filesystem of %s is full: free some space there, or choose another place with --store", err, dir)
}

// summary tells what was cached, what ran and how long it took.
func summary(res *pipeline.Result, total time.Duration) {
	s := monitor.SummaryData{Total: total}
	for _, src := range res.Sources {
		if src.Err != nil {
			continue // the message says what was wrong
		}
		s.Downloads = append(s.Downloads, monitor.SummaryDownload{
			Source: src.Source.Name, Items: src.Items, Cached: src.Cached, Duration: src.Duration,
		})
	}
	for _, p := range res.Pipelines {
		for _, st := range p.Stages {
			s.Stages = append(s.Stages, monitor.SummaryStage{
				Pipeline: p.Pipeline.Name, Name: st.Stage.Name, Cached: st.Cached, Success: st.Success, Duration: st.Duration,
			})
		}
	}
	monitor.Summary(os.Stdout, s)
	tellTransfers(res.Transfers)
}
