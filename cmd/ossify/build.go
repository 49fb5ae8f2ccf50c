package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/native"
	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
)

// storeOptions say where things are; every command that builds has them.
type storeOptions struct {
	store   string
	libdirs []string
	quiet   bool
	debug   bool
}

func (o *storeOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.store, "store", defaultStore(), "directory of checkpoints and downloads")
	f.StringVar(&o.store, "cache", defaultStore(), "same as --store")
	f.StringArrayVarP(&o.libdirs, "libdir", "l", nil, "directory of modules, searched before ossify's own (can be given several times)")
	f.BoolVar(&o.debug, "debug", false, "print to standard error how each container is laid out")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress and no summary")
}

// defaultStore follows the XDG base directory specification.
func defaultStore() string {
	if dir := os.Getenv("OSSIFY_STORE"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 && os.Getenv("_CONTAINERS_ROOTLESS_UID") == "" {
		return "/var/lib/ossify"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "ossify")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	return filepath.Join(home, ".local", "share", "ossify")
}

type buildOptions struct {
	storeOptions
	monitor     monitorOptions
	checkpoints []string
	exports     []string
	output      string
	json        bool
	inspect     bool
	timeout     int
}

func (o *buildOptions) addFlags(cmd *cobra.Command) {
	o.storeOptions.addFlags(cmd)
	o.monitor.addFlags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&o.checkpoints, "checkpoint", nil, "pipeline, stage or id to build and report (glob; can be given several times); every stage is a checkpoint anyway")
	f.StringArrayVar(&o.exports, "export", nil, "pipeline whose tree is copied to the output directory, all files yours; NAME:tar makes NAME.tar with the true owners (can be given several times)")
	f.StringVar(&o.output, "output-directory", "", "directory for exports")
	f.BoolVar(&o.json, "json", false, "print the result as JSON")
	f.BoolVar(&o.inspect, "inspect", false, "print the manifest with all ids as JSON and build nothing")
	f.IntVar(&o.timeout, "stage-timeout", 0, "seconds that a stage may take, 0 for no limit")
}

// engine is an open store with what a build needs around it.
type engine struct {
	store      *store.Store
	containers *sandbox.Containers
	index      *pipeline.Index
	monitor    monitor.Monitor
	closers    []func() error
}

// openEngine enters the user namespace and opens the store. The caller closes
// the engine.
func openEngine(o *storeOptions, mon monitor.Monitor) (_ *engine, err error) {
	e := &engine{monitor: mon}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if e.store, err = store.Open(o.store); err != nil {
		return nil, err
	}
	e.closers = append(e.closers, e.store.Close)
	dir, err := e.store.Memory("containers-")
	if err != nil {
		return nil, err
	}
	if e.containers, err = sandbox.NewContainers(dir); err != nil {
		return nil, err
	}
	e.closers = append(e.closers, e.containers.Close)
	if o.debug {
		e.containers.Debug = os.Stderr
	}
	native, err := nativeLibdir(e.store)
	if err != nil {
		return nil, err
	}
	if e.index, err = pipeline.OpenIndex(append(append([]string{}, o.libdirs...), native)...); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *engine) close() error {
	var errs []error
	for i := len(e.closers) - 1; i >= 0; i-- {
		errs = append(errs, e.closers[i]())
	}
	e.closers = nil
	return errors.Join(errs...)
}

// nativeLibdir returns the libdir of this program's own modules in the store,
// which it makes the first time.
func nativeLibdir(s *store.Store) (string, error) {
	digest, err := s.Digest(sandbox.Program())
	if err != nil {
		return "", fmt.Errorf("find native modules: %w", err)
	}
	dir := filepath.Join(s.Dir(), "lib", digest[:32])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, remove, err := s.Scratch("lib-")
	if err != nil {
		return "", err
	}
	defer remove()
	if err := native.Libdir(tmp, sourceModules()); err != nil {
		return "", fmt.Errorf("install native modules: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr == nil {
			return dir, nil // another build was quicker
		}
		return "", fmt.Errorf("install native modules: %w", err)
	}
	return dir, nil
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
	if len(o.exports) > 0 && o.output == "" {
		return usageError{errors.New("--export needs --output-directory")}
	}
	if err := o.monitor.check(); err != nil {
		return err
	}
	if err := sandbox.EnterNamespace(); err != nil {
		return err
	}
	name, data, err := readManifest(path)
	if err != nil {
		return err
	}
	mon := o.monitor.open(path, o.quiet || o.json || o.inspect)
	defer mon.Close()
	e, err := openEngine(&o.storeOptions, mon)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	m, err := pipeline.Load(name, data, e.index)
	if err != nil {
		return reportInvalid(err, o.json || o.inspect)
	}
	if o.inspect {
		text, err := pipeline.Describe(m)
		if err != nil {
			return err
		}
		_, err = fmt.Printf("%s\n", text)
		return err
	}
	targets, err := selectTargets(m, o)
	if err != nil {
		return err
	}
	start := time.Now()
	opts := pipeline.RunOptions{
		Store: e.store, Containers: e.containers, Monitor: mon,
		Targets: targets, StageTimeout: time.Duration(o.timeout) * time.Second,
	}
	res, runErr := m.Run(ctx, opts)
	if runErr != nil {
		runErr = diskFull(runErr, e.store.Dir())
	}
	if runErr == nil {
		for _, spec := range o.exports {
			p, tar := exported(m, spec)
			layer, err := builtTree(m, opts, p)
			if err == nil && tar {
				err = exportTar(ctx, e, layer, o.output, p.Name)
			} else if err == nil {
				_, err = exportFiles(e, layer, filepath.Join(o.output, p.Name))
			}
			if err != nil {
				return err
			}
		}
	}
	mon.Close()
	if o.json {
		if err := pipeline.WriteResult(os.Stdout, m, res, runErr); err != nil {
			return err
		}
		if runErr != nil && !errors.Is(runErr, errInterrupted) {
			return reportedError{exitFailed}
		}
		return runErr
	}
	if !o.quiet {
		summary(res, time.Since(start))
		if runErr == nil {
			for _, p := range targets {
				fmt.Printf("%s:\t%s\n", p.Name, p.ID())
			}
		}
	}
	return runErr
}

// reportInvalid prints a manifest's faults as osbuild's JSON where that was
// asked for.
func reportInvalid(err error, asJSON bool) error {
	var invalid *pipeline.ValidationError
	if !asJSON || !errors.As(err, &invalid) {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(invalid); err != nil {
		return err
	}
	return reportedError{exitInvalid}
}

// selectTargets turns --export and --checkpoint into pipelines; without either
// everything is built.
func selectTargets(m *pipeline.Manifest, o *buildOptions) ([]*pipeline.Pipeline, error) {
	var targets []*pipeline.Pipeline
	for _, name := range o.exports {
		p, _ := exported(m, name)
		if p == nil {
			var names []string
			for _, p := range m.Pipelines {
				names = append(names, p.Name)
			}
			return nil, fmt.Errorf("export %q is no pipeline of %s; it has: %s", name, m.Name, strings.Join(names, ", "))
		}
		targets = append(targets, p)
	}
	for _, pattern := range o.checkpoints {
		matched, err := m.Match(pattern)
		if err != nil {
			return nil, usageError{err}
		}
		if len(matched) == 0 {
			return nil, fmt.Errorf("checkpoint %q matches no pipeline, stage or id of %s", pattern, m.Name)
		}
		targets = append(targets, matched...)
	}
	if len(targets) == 0 {
		targets = m.Pipelines
	}
	return targets, nil
}

// exported is the pipeline of an argument of --export, nil if there is none, and
// whether it is wanted as an archive.
func exported(m *pipeline.Manifest, spec string) (p *pipeline.Pipeline, tar bool) {
	if p := m.Pipeline(spec); p != nil {
		return p, false
	}
	name, tar := strings.CutSuffix(spec, ":tar")
	return m.Pipeline(name), tar
}

// builtTree is the tree of a pipeline that was built.
func builtTree(m *pipeline.Manifest, opts pipeline.RunOptions, p *pipeline.Pipeline) (*store.Layer, error) {
	layer, err := m.Tree(p, opts)
	if err == nil && layer == nil {
		err = fmt.Errorf("pipeline %q has no stages, so there is nothing to export", p.Name)
	}
	return layer, err
}

// exportFiles copies a tree to dir and returns the paths of its files in it.
func exportFiles(e *engine, layer *store.Layer, dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("export to %s: %w", dir, err)
	}
	return e.store.Export(layer, dir)
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
}
