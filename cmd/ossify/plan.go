package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
)

func planCommand() *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "plan MANIFEST",
		Short: "Show what a build would do, and do none of it",
		Long: `Shows what ossify MANIFEST would do with the same options: for each stage whether its tree is in
the store (cached) or in a registry (registry), it has to run (run), or nothing that is built needs it (not needed), and what it
asks for besides its tree; for each source how much there is and how much is to be downloaded.
Nothing is run or downloaded, no checkpoint counts as used, and a store that is not there is not made.

What keeps a build from beginning is told, all of it; the status is that of the build then.

With --json the output is an object with
  "pipelines"  each with "name", "id", "build" (unless that is the host) and "stages", of which each
               has "id", "name", "state" (as above) and "needs"; "pull" is what comes from a registry, in bytes
  "sources"    each with "name", "items" that the build needs, how many of these are "stored", and
               whether the others are "local" or how many there are to "download": "bytes", and
               "unsized" ones, of which the manifest does not state the size
  "refused"    what keeps the build from beginning, a list of texts`,
		Args:              arguments(1, 1, "one manifest is"),
		ValidArgsFunction: completeManifest,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.plan(cmd.Context(), args[0])
		},
	}
	o.addEngine(cmd)
	o.addTargets(cmd)
	o.remote.addFrom(cmd)
	o.early.addFlags(cmd)
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// completeManifest completes the first argument with names of files.
func completeManifest(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}

// withManifest opens the store and loads a manifest. prepare is called in the user
// namespace before that.
func (o *buildOptions) withManifest(ctx context.Context, path string, prepare func() (release func() error, err error), do func(*engine, *pipeline.Manifest) error) (err error) {
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
	release, err := prepare()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	e, err := openEngine(&o.storeOptions, monitor.Null{})
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
	return do(e, m)
}

// emptyStore chooses an empty store in the place of one that is not there, on the
// filesystem where that would be made; release removes it.
func (o *storeOptions) emptyStore() (release func() error, err error) {
	dir, err := store.Directory(o.store)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return func() error { return nil }, nil // Open tells what is wrong with it
	}
	for !exists(dir) {
		dir = filepath.Dir(dir)
	}
	made, err := os.MkdirTemp(dir, ".ossify-plan-")
	if err != nil {
		return nil, fmt.Errorf("there is no store at %s, and none can be made: %w", o.store, err)
	}
	o.store = made
	return func() error { return overlay.RemoveAll(made) }, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// refusals are why a build would not begin. The status is that of the first of them, as the
// build's.
type refusals []error

func (r refusals) Unwrap() error { return r[0] }

// Error has a line for each of them at least.
func (r refusals) Error() string { return strings.Join(r.texts(), "\n") }

func (r refusals) texts() []string {
	texts := []string{}
	for _, err := range r {
		texts = append(texts, plain(err.Error(), "\n"))
	}
	return texts
}

func (o *buildOptions) plan(ctx context.Context, path string) error {
	return o.withManifest(ctx, path, o.emptyStore, func(e *engine, m *pipeline.Manifest) error {
		targets, err := o.targets(m)
		if err != nil {
			return err
		}
		opts := o.runOptions(e, targets)
		if opts.Remote, err = o.remote.open(nil); err != nil {
			return err
		}
		plan, err := m.Plan(ctx, opts)
		if err != nil {
			return err
		}
		refused := refusals(plan.Refusals)
		if o.json {
			err = printJSON(os.Stdout, struct {
				*pipeline.Plan
				Refused []string `json:"refused"`
			}{plan, refused.texts()})
		} else {
			err = showPlan(os.Stdout, plan)
		}
		if err != nil || len(refused) == 0 {
			return err
		}
		if invalid := (*pipeline.ValidationError)(nil); o.json && errors.As(refused, &invalid) {
			return reportedError{exitInvalid}
		} else if o.json {
			return reportedError{exitFailed}
		}
		return refused
	})
}

func showPlan(to io.Writer, plan *pipeline.Plan) error {
	var states []string
	stages := map[string]int{}
	pull := ""
	var pulled int64
	count := func(state string) {
		if stages[state] == 0 {
			states = append(states, state)
		}
		stages[state]++
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, p := range plan.Pipelines {
		pulled += p.Pull
		build := ""
		if p.Build != "" {
			build = ", built with " + printable(p.Build)
		}
		if len(p.Stages) == 0 {
			build += ": no stages"
		}
		fmt.Fprintf(to, "%s%s\n", printable(p.Name), build)
		for _, s := range p.Stages {
			count(s.State)
			needs := ""
			if len(s.Needs) > 0 {
				needs = "\tneeds " + printable(strings.Join(s.Needs, ", "))
			}
			fmt.Fprintf(w, "  %s\t%s\t%s%s\n", short(s.ID), s.State, printable(s.Name), needs)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(plan.Sources) > 0 {
		fmt.Fprintln(to, "sources")
	}
	var bytes int64
	download, unsized := 0, 0
	for _, s := range plan.Sources {
		bytes, download, unsized = bytes+s.Bytes, download+s.Download, unsized+s.Unsized
		fmt.Fprintf(w, "  %s\t%s\n", printable(s.Name), plannedItems(s))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var parts []string
	for _, state := range states {
		parts = append(parts, fmt.Sprintf("%d %s", stages[state], state))
	}
	if pulled > 0 {
		pull = "to pull: " + monitor.Bytes(pulled) + "; "
	}
	_, err := fmt.Fprintf(to, "stages: %s; %sto download: %s\n", orNone(strings.Join(parts, ", ")), pull, downloadSize(download, bytes, unsized))
	return err
}

// plannedItems says what a build takes from a source.
func plannedItems(s *pipeline.PlannedSource) string {
	switch {
	case s.Items == 0:
		return pipeline.StateNotNeeded
	case s.Local:
		return fmt.Sprintf("%d needed, none to download", s.Items)
	}
	return fmt.Sprintf("%d needed, %d stored, %d to download: %s", s.Items, s.Stored, s.Download, downloadSize(s.Download, s.Bytes, s.Unsized))
}

// downloadSize is the size of that many items, of which some have no stated size.
func downloadSize(items int, bytes int64, unsized int) string {
	switch {
	case items == 0:
		return "nothing"
	case unsized == 0:
		return monitor.Bytes(bytes)
	case unsized == items:
		return "unknown size"
	}
	return fmt.Sprintf("%s and %d of unknown size", monitor.Bytes(bytes), unsized)
}
