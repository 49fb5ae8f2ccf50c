package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
)

// shellOptions are those of shells in sandboxes.
type shellOptions struct {
	buildOptions
	host, inside bool
}

// moment says which of a stage's trees is meant.
type moment string

const (
	before moment = "before"
	after  moment = "after"
	broken moment = "failed"
)

// verbs are what a stage did to its tree.
var verbs = map[moment]string{before: "found", after: "left", broken: "broke"}

func shellCommand() *cobra.Command {
	var o shellOptions
	cmd := &cobra.Command{
		Use:   "shell [MANIFEST] STAGE@before|after|failed [-- COMMAND [ARG...]]",
		Short: "Run a shell, or a command, where a stage did, on the tree before or after it",
		Long: `Runs a shell, or a command, in a sandbox as the stage has it: its build root with the tools, its
arguments and inputs, no network, and in /run/osbuild/tree the tree as the stage found it (before), left
it (after) or broke it when it failed last (failed). The tree can be changed; the changes go with the sandbox.

STAGE is the stage's name, its id or the beginning of that, PIPELINE:NAME or PIPELINE:INDEX. What is not
in the store is built first, except for @failed. Without a manifest the store says what it knows: the tree and
the build root of a checkpoint, but no inputs; PIPELINE@failed is enough then.

The exit status is that of the shell or the command.`,
		Args: func(cmd *cobra.Command, args []string) error {
			names, _ := splitArgs(cmd, args)
			if len(names) != 1 && len(names) != 2 {
				return usageError{fmt.Errorf("a manifest and a stage are needed, or a stage alone, and the command after --; got %d arguments", len(names))}
			}
			return nil
		},
		ValidArgsFunction: completeMoments(&o.storeOptions),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, command := splitArgs(cmd, args)
			spec := names[len(names)-1]
			text, when, ok := strings.Cut(spec, "@")
			if _, known := verbs[moment(when)]; !ok || !known || text == "" {
				return usageError{fmt.Errorf("%s: want STAGE@before, STAGE@after or STAGE@failed", spec)}
			}
			if len(names) == 2 {
				return o.fromManifest(cmd.Context(), names[0], text, moment(when), command)
			}
			return o.fromStore(cmd.Context(), command, func(list []store.Checkpoint) (store.Checkpoint, moment, error) {
				c, err := findStage(list, text, moment(when))
				return c, moment(when), err
			})
		},
	}
	o.addModules(cmd)
	o.addShell(cmd)
	return cmd
}

func storeShell() *cobra.Command {
	var o shellOptions
	cmd := &cobra.Command{
		Use:   "shell ID [-- COMMAND [ARG...]]",
		Short: "Run a shell, or a command, on a checkpoint",
		Long: `Runs a shell, or a command, in a sandbox with the build root's tools, no network, and the tree of
the checkpoint in /run/osbuild/tree. The tree can be changed; the changes go with the sandbox. The tree that a
failed stage has left is called failed:PIPELINE.

The exit status is that of the shell or the command.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if names, _ := splitArgs(cmd, args); len(names) != 1 {
				return usageError{fmt.Errorf("one checkpoint is needed, and the command after --; got %d arguments", len(names))}
			}
			return nil
		},
		ValidArgsFunction: completeIDs(&o.storeOptions, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, command := splitArgs(cmd, args)
			return o.fromStore(cmd.Context(), command, func(list []store.Checkpoint) (store.Checkpoint, moment, error) {
				c, err := findCheckpoint(list, names[0])
				if c.Failed {
					return c, broken, err
				}
				return c, after, err
			})
		},
	}
	o.addStore(cmd)
	o.addShell(cmd)
	return cmd
}

func (o *shellOptions) addShell(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.host, "host", false, "take the tools of this machine in place of the build root")
	cmd.Flags().BoolVar(&o.inside, "chroot", false, "run inside the tree, which has to be a whole system")
}

// splitArgs returns the arguments before and after --; no command is nil.
func splitArgs(cmd *cobra.Command, args []string) (names, command []string) {
	n := cmd.ArgsLenAtDash()
	if n < 0 || n == len(args) {
		return args, nil
	}
	return args[:n], args[n:]
}

// fromManifest runs a shell in the sandbox of a stage of the manifest.
func (o *shellOptions) fromManifest(ctx context.Context, path, text string, when moment, command []string) error {
	if o.host {
		return usageError{errors.New("--host: the manifest says where the tools are from; leave the manifest or --host out")}
	}
	if err := o.enter(path); err != nil {
		return err
	}
	name, data, err := readManifest(path)
	if err != nil {
		return err
	}
	mon := monitor.Monitor(monitor.Null{})
	if !o.quiet {
		mon = monitor.NewLog(os.Stderr)
	}
	return o.run(ctx, mon, command, func(e *engine) (*pipeline.Manifest, *pipeline.Shell, error) {
		m, err := load(ctx, name, data, e.index)
		if err != nil {
			return nil, nil, err
		}
		s, err := oneStage(m, text)
		if err != nil {
			return nil, nil, err
		}
		sh := &pipeline.Shell{Stage: s, After: when == after}
		if when == broken {
			sh.Tree, err = failedTree(e.store, s)
		}
		sh.Welcome = o.welcome(s.Name, s.Pipeline.Name, when)
		return m, sh, err
	})
}

// oneStage finds the stage that the text means.
func oneStage(m *pipeline.Manifest, text string) (*pipeline.Stage, error) {
	found := m.Find(text)
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no stage of %s has the name or id %s; its pipelines are: %s", m.Name, text, strings.Join(m.Names(), ", "))
	case 1:
		return found[0], nil
	}
	lines := []string{fmt.Sprintf("%d stages of %s are called %s: say which, by PIPELINE:INDEX or id", len(found), m.Name, text)}
	for _, s := range found {
		lines = append(lines, fmt.Sprintf("%s  %s:%d  %s", short(s.ID), s.Pipeline.Name, s.Index, s.Name))
	}
	return nil, errors.New(strings.Join(lines, "\n"))
}

// failedTree is what the stage left when it failed, if that was its pipeline's last failure.
func failedTree(s *store.Store, stage *pipeline.Stage) (*store.Layer, error) {
	list, err := s.Checkpoints()
	if err != nil {
		return nil, err
	}
	c, err := findStage(list, stage.Pipeline.Name, broken)
	if err != nil {
		return nil, err
	}
	if c.Stage != stage.Name {
		return nil, fmt.Errorf("the stage of pipeline %s that failed last is %s, not %s", c.Pipeline, c.Stage, stage.Name)
	}
	return s.Layer(c.Layer)
}

// findStage finds the checkpoint of a stage by what ossify shell takes.
func findStage(list []store.Checkpoint, text string, when moment) (store.Checkpoint, error) {
	found := slices.DeleteFunc(slices.Clone(list), func(c store.Checkpoint) bool {
		named := c.Stage == text || c.Pipeline+":"+c.Stage == text
		if when == broken {
			return !c.Failed || !named && c.Pipeline != text
		}
		return c.ID == "" || c.Prepared || !named && !strings.HasPrefix(c.ID, text)
	})
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		lines := []string{fmt.Sprintf("%d checkpoints are called %s: say which, by its id", len(found), text)}
		for _, c := range found {
			lines = append(lines, fmt.Sprintf("%s  %s:%s", shownID(c), printable(c.Pipeline), printable(c.Stage)))
		}
		return store.Checkpoint{}, errors.New(strings.Join(lines, "\n"))
	case when == broken:
		return store.Checkpoint{}, fmt.Errorf("the store has no failed stage of %s: what failed is kept until the pipeline is built", text)
	}
	return store.Checkpoint{}, fmt.Errorf("there is no checkpoint %s: see ossify store ls, or name the manifest before the stage", text)
}

// fromStore runs a shell on a checkpoint.
func (o *shellOptions) fromStore(ctx context.Context, command []string, find func([]store.Checkpoint) (store.Checkpoint, moment, error)) error {
	if err := o.exists(); err != nil {
		return err
	}
	if err := sandbox.EnterNamespace(); err != nil {
		return err
	}
	return o.run(ctx, monitor.Null{}, command, func(e *engine) (*pipeline.Manifest, *pipeline.Shell, error) {
		list, err := e.store.Checkpoints()
		if err != nil {
			return nil, nil, err
		}
		c, when, err := find(list)
		if err != nil {
			return nil, nil, err
		}
		m, err := pipeline.LoadShell(e.index)
		if err != nil {
			return nil, nil, err
		}
		sh := &pipeline.Shell{Stage: m.Pipelines[0].Stages[0]}
		layer := c.Layer
		if when == before {
			layer = c.Base
		}
		if layer != "" {
			if sh.Tree, err = e.store.Layer(layer); err != nil {
				return nil, nil, err
			}
		}
		switch {
		case o.host || o.inside:
		case c.Root == "":
			return nil, nil, fmt.Errorf("the store does not know the build root of %s, as an older ossify made it: name the manifest (ossify shell MANIFEST STAGE@after), or take the tools of this machine (--host)", shownID(c))
		case c.Build != "":
			sh.Root = &c.Origin
		}
		sh.Welcome = o.welcome(c.Stage, c.Pipeline, when)
		return m, sh, nil
	})
}

// welcome says where the tree is.
func (o *shellOptions) welcome(stage, of string, when moment) string {
	place := "/run/osbuild/tree"
	if o.inside {
		place = "/"
	}
	return fmt.Sprintf("ossify: %s is the tree as %s of pipeline %s %s it; changes are thrown away\n", place, printable(stage), printable(of), verbs[when])
}

// run opens the store and runs the shell that prepare says.
func (o *shellOptions) run(ctx context.Context, mon monitor.Monitor, command []string, prepare func(*engine) (*pipeline.Manifest, *pipeline.Shell, error)) error {
	status, err := o.status(ctx, mon, command, prepare)
	if err == nil && status != 0 {
		return reportedError{status}
	}
	return diskFull(err, o.store)
}

// status is run, but for the exit status.
func (o *shellOptions) status(ctx context.Context, mon monitor.Monitor, command []string, prepare func(*engine) (*pipeline.Manifest, *pipeline.Shell, error)) (status int, err error) {
	defer mon.Close()
	e, err := openEngine(&o.storeOptions, mon)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	m, sh, err := prepare(e)
	if err != nil {
		return 0, err
	}
	sh.Inside = o.inside
	sh.Terminal, sh.Args = sandbox.Terminal{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, command
	return m.Shell(ctx, pipeline.RunOptions{
		Helper: o.helper, DiskWriter: string(o.writer), Store: e.store, Containers: e.containers, Monitor: mon,
	}, sh)
}

// completeMoments completes a stage with what completeIDs has, beside files.
func completeMoments(o *storeOptions) cobra.CompletionFunc {
	ids := completeIDs(o, -1)
	return func(cmd *cobra.Command, args []string, prefix string) (out []string, _ cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		id, _, _ := strings.Cut(prefix, "@")
		found, _ := ids(cmd, args, id)
		for _, line := range found {
			id, about, _ := strings.Cut(line, "\t")
			for _, when := range []moment{before, after} {
				out = append(out, cobra.CompletionWithDesc(id+"@"+string(when), about))
			}
		}
		return out, cobra.ShellCompDirectiveKeepOrder
	}
}
