package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func storeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Look at checkpoints and downloads, and remove them",
		Long: `Looks at what the store holds: the tree that each stage has left is a checkpoint, named by the
stage's id, of which the beginning is enough where it is the only one.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q for ossify store", args[0])}
			}
			return usageError{errors.New("say what: ls, show, diff, cat, shell, mount, umount, tag, untag, podman-setup, push, pull, rm, prune, check or df")}
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(storeList(), storeShow(), storeDiff(), storeCat(), storeShell(), storeMount(), storeUnmount(), storeTag(), storeUntag(), storePodmanSetup(), storePush(), storePull(), storeRemove(), storePrune(), storeCheck(), storeUsage())
	return cmd
}

// arguments is how many arguments a command takes; most may be -1 for any number.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return usageError{fmt.Errorf("%s needed, got %d arguments", what, len(args))}
		}
		return nil
	}
}

// exists returns an error if there is no store.
func (o *storeOptions) exists() error {
	dir, err := store.Directory(o.store)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no store at %s: name another with --store, or build something", o.store)
	}
	return nil
}

// withStore runs a command with the store open, in the user namespace that can read it.
func withStore(o *storeOptions, do func(*store.Store) error) error {
	if err := o.exists(); err != nil {
		return err
	}
	if err := sandbox.EnterNamespace(); err != nil {
		return err
	}
	return o.openStore(do)
}

// openStore runs a command with the store open.
func (o *storeOptions) openStore(do func(*store.Store) error) (err error) {
	s, err := store.Open(o.store, o.rundir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return do(s)
}

// completeIDs completes the first arguments, most of them or all if it is -1, with ids of
// checkpoints, beside which shells show pipeline and stage.
func completeIDs(o *storeOptions, most int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, prefix string) (out []string, _ cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		err := withStore(o, func(s *store.Store) error {
			list, err := s.Checkpoints()
			for _, c := range list {
				if id := short(c.ID); !c.Prepared && !c.Failed && strings.HasPrefix(c.ID, prefix) {
					out = append(out, cobra.CompletionWithDesc(id, printable(c.Pipeline)+" "+printable(c.Stage)))
				}
			}
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

func storeList() *cobra.Command {
	var o storeOptions
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List checkpoints",
		Long: `Lists the checkpoints of the store, those made first at the top: the beginning of the stage's
id, the pipeline and the stage that made it first, its age, what it takes on disk itself and what
the ones below it take, how many are based on it, and how often and how long ago it was used.`,
		Args: arguments(0, 0, "no arguments are"),
		RunE: func(*cobra.Command, []string) error {
			return withStore(&o, func(s *store.Store) error {
				list, err := s.Checkpoints()
				if err != nil {
					return err
				}
				if !all {
					list = slices.DeleteFunc(list, func(c store.Checkpoint) bool { return c.Prepared })
				}
				if asJSON {
					return printJSON(os.Stdout, list)
				}
				return listCheckpoints(os.Stdout, list, time.Now())
			})
		},
	}
	o.addStore(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list also what is no stage's: prepared build roots")
	return cmd
}

// idLength is how much of an id is shown.
const idLength = 12

func short(id string) string { return id[:min(len(id), idLength)] }

func printJSON(w io.Writer, what any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(what)
}

func listCheckpoints(to io.Writer, list []store.Checkpoint, now time.Time) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tPIPELINE\tSTAGE\tAGE\tOWN\tSHARED\tABOVE\tUSES\tUSED\tIMAGE")
	for _, c := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", shownID(c), orDash(printable(c.Pipeline)), orDash(printable(c.Stage)),
			age(now.Sub(c.Made)), monitor.Bytes(c.Own), monitor.Bytes(c.Shared), c.Above, c.Uses, age(now.Sub(c.Used)), orDash(strings.Join(c.Images, ", ")))
	}
	return w.Flush()
}

// shownID is how a checkpoint is called.
func shownID(c store.Checkpoint) string {
	if c.Failed {
		return "(failed)"
	}
	return orDash(short(c.ID))
}

func orDash(text string) string { return cmp.Or(text, "-") }

// age is a duration for people, with one unit.
func age(d time.Duration) string {
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if n := d / unit.size; n > 0 {
			return fmt.Sprintf("%d %s", n, unit.name)
		}
	}
	return fmt.Sprintf("%d s", max(d/time.Second, 0))
}

// findCheckpoint returns the one whose id begins so, or that is named failed:PIPELINE.
func findCheckpoint(list []store.Checkpoint, prefix string) (store.Checkpoint, error) {
	var found []store.Checkpoint
	pipeline, failed := strings.CutPrefix(prefix, "failed:")
	for _, c := range list {
		if failed && c.Failed && c.Pipeline == pipeline || !failed && c.ID != "" && strings.HasPrefix(c.ID, prefix) {
			found = append(found, c)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return store.Checkpoint{}, fmt.Errorf("%d checkpoints begin with %s: give more of the id", len(found), prefix)
	}
	return store.Checkpoint{}, fmt.Errorf("there is no checkpoint %s: see ossify store ls", prefix)
}

// checkpointInfo is what show tells.
type checkpointInfo struct {
	store.Checkpoint
	// Chain are the checkpoints from the first to this one.
	Chain    []chainLink     `json:"chain"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

type chainLink struct {
	ID    string `json:"id"`
	Stage string `json:"stage"`
	Own   int64  `json:"own"`
}

func storeShow() *cobra.Command {
	var o storeOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show ID",
		Short:             "Show a checkpoint, and the ones that it is based on",
		Args:              arguments(1, 1, "one checkpoint is"),
		ValidArgsFunction: completeIDs(&o, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			return withStore(&o, func(s *store.Store) error {
				info, err := checkpointOf(s, args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(os.Stdout, info)
				}
				return showCheckpoint(os.Stdout, info)
			})
		},
	}
	o.addStore(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func checkpointOf(s *store.Store, prefix string) (info checkpointInfo, err error) {
	list, err := s.Checkpoints()
	if err != nil {
		return info, err
	}
	if info.Checkpoint, err = findCheckpoint(list, prefix); err != nil {
		return info, err
	}
	byLayer := map[string]store.Checkpoint{}
	for _, c := range list {
		byLayer[c.Layer] = c
	}
	for c, ok := info.Checkpoint, true; ok; c, ok = byLayer[c.Base] {
		info.Chain = append(info.Chain, chainLink{c.ID, c.Stage, c.Own})
	}
	slices.Reverse(info.Chain)
	layer, err := s.Layer(info.Layer)
	if err == nil {
		info.Metadata, err = s.Metadata(layer)
	}
	return info, err
}

func showCheckpoint(to io.Writer, c checkpointInfo) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	line("id", "%s", orDash(c.ID))
	line("layer", "%s", c.Layer)
	line("pipeline", "%s", orDash(printable(c.Pipeline)))
	line("stage", "%s", orDash(printable(c.Stage)))
	line("made", "%s", c.Made.Local().Format(time.RFC3339))
	line("used", "%s, %d times", c.Used.Local().Format(time.RFC3339), c.Uses)
	line("own size", "%s", monitor.Bytes(c.Own))
	line("shared size", "%s", monitor.Bytes(c.Shared))
	line("based on it", "%d", c.Above)
	line("images", "%s", orDash(strings.Join(c.Images, ", ")))
	if len(c.Metadata) > 0 {
		line("metadata", "%d bytes (--json shows them)", len(c.Metadata))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(to, "\nstages:")
	for _, link := range c.Chain {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", orDash(short(link.ID)), orDash(printable(link.Stage)), monitor.Bytes(link.Own))
	}
	return w.Flush()
}

func storeDiff() *cobra.Command {
	var o storeOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff ID [ID]",
		Short: "Show what a stage has changed, or in what two checkpoints differ",
		Long: `Shows what a stage has changed in the tree that it found: one line for each path, as ossify diff
has them. With two ids their trees are compared.

The status is 0 if nothing differs, 1 if something does and 2 if they cannot be compared.
With --json the output is that of osbuild's tree-diff, and the status 0 also if they differ.`,
		Args:              arguments(1, 2, "one checkpoint or two are"),
		ValidArgsFunction: completeIDs(&o, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			err := diffCheckpoints(&o, args, asJSON)
			if err != nil && !errors.Is(err, errReported) {
				return usageError{err}
			}
			return err
		},
	}
	o.addStore(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the differences as osbuild's tree-diff does")
	return cmd
}

func diffCheckpoints(o *storeOptions, args []string, asJSON bool) error {
	return withStore(o, func(s *store.Store) (err error) {
		list, err := s.Checkpoints()
		if err != nil {
			return err
		}
		var layers []string
		for _, arg := range args {
			c, err := findCheckpoint(list, arg)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				layers = append(layers, c.Base)
			}
			layers = append(layers, c.Layer)
		}
		var trees []overlay.Tree
		for _, id := range layers {
			tree, release, err := openLayer(s, id)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, release()) }()
			trees = append(trees, tree)
		}
		return printDiff(trees, asJSON)
	})
}

func storeCat() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:               "cat ID PATH",
		Short:             "Print a file of a checkpoint",
		Long:              "Prints a file of a checkpoint's tree. Symbolic links are followed as in the booted system.",
		Args:              arguments(2, 2, "a checkpoint and a path are"),
		ValidArgsFunction: completeIDs(&o, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			return withStore(&o, func(s *store.Store) (err error) {
				list, err := s.Checkpoints()
				if err != nil {
					return err
				}
				c, err := findCheckpoint(list, args[0])
				if err != nil {
					return err
				}
				tree, release, err := openLayer(s, c.Layer)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, release()) }()
				return printFile(os.Stdout, tree.Dir, args[1])
			})
		},
	}
	o.addStore(cmd)
	return cmd
}

// printFile prints a file below root, which no link on the way leaves.
func printFile(to io.Writer, root, path string) error {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	// O_NONBLOCK: a FIFO is not waited for.
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir, path, &how)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no file: its mode is %s", path, st.Mode())
	}
	_, err = io.Copy(to, f)
	return err
}

func storeRemove() *cobra.Command {
	var o storeOptions
	var above, quiet bool
	cmd := &cobra.Command{
		Use:   "rm ID...",
		Short: "Remove checkpoints",
		Long: `Removes checkpoints. Those that others are based on go only with these (--above), and those that
an image or a layer of another program is based on stay. The tree that a failed stage has left is
called failed:PIPELINE.`,
		Args:              arguments(1, -1, "at least one checkpoint is"),
		ValidArgsFunction: completeIDs(&o, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			return withStore(&o, func(s *store.Store) error {
				list, err := s.Checkpoints()
				if err != nil {
					return err
				}
				var layers []string
				for _, arg := range args {
					c, err := findCheckpoint(list, arg)
					if err != nil {
						return err
					}
					layers = append(layers, c.Layer)
				}
				return reportRemoved(s.Remove(layers, above))(quiet)
			})
		},
	}
	o.addStore(cmd)
	cmd.Flags().BoolVar(&above, "above", false, "remove those as well that are based on them")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing")
	return cmd
}

// reportRemoved prints what was removed, unless quiet.
func reportRemoved(done *store.Shrunk, err error) func(quiet bool) error {
	return func(quiet bool) error {
		if errors.Is(err, store.ErrBusy) {
			return fmt.Errorf("%w, and nothing that it needs may go: wait for its end", err)
		}
		if done != nil && !quiet {
			fmt.Printf("removed %d, %s\n", done.Removed, monitor.Bytes(done.Freed))
		}
		return err
	}
}

func storePrune() *cobra.Command {
	var o storeOptions
	var size sizeFlag
	var older time.Duration
	var last int
	var quiet bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove what was not used for long",
		Long: `Removes checkpoints, downloads and outputs, those that were not used for longest first: until the
store holds --max-size, what was not used for --older-than, and all trees but the --keep-last ones
that were used last (with the checkpoints that they are based on). At least one of them is needed.
What images and layers of other programs are based on stays.`,
		Args: arguments(0, 0, "no arguments are"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f := cmd.Flags()
			if !f.Changed("max-size") && !f.Changed("older-than") && !f.Changed("keep-last") {
				return usageError{errors.New("say what goes: --max-size, --older-than or --keep-last")}
			}
			p := store.Prune{Max: -1, Last: -1}
			if f.Changed("max-size") && size.text != "" {
				p.Max = size.bytes
			}
			if f.Changed("older-than") {
				p.Before = time.Now().Add(-older)
			}
			if f.Changed("keep-last") {
				if p.Last = last; last < 0 {
					return usageError{fmt.Errorf("--keep-last %d: a number of trees is 0 or more", last)}
				}
			}
			return withStore(&o, func(s *store.Store) error { return reportRemoved(s.Prune(p))(quiet) })
		},
	}
	o.addStore(cmd)
	cmd.Flags().Var(&size, "max-size", "size that the store is cut down to, such as 20GB")
	cmd.Flags().DurationVar(&older, "older-than", 0, "how long ago something was used at the latest, such as 720h")
	cmd.Flags().IntVar(&last, "keep-last", 0, "how many trees stay")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing")
	return cmd
}

func storeUsage() *cobra.Command {
	var o storeOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "df",
		Short: "Show what takes how much of the disk",
		Args:  arguments(0, 0, "no arguments are"),
		RunE: func(*cobra.Command, []string) error {
			return withStore(&o, func(s *store.Store) error {
				usage, err := s.Usage()
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(os.Stdout, usage)
				}
				w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "KIND\tCOUNT\tSIZE\tREMOVABLE")
				var total store.Usage
				for _, u := range usage {
					fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", u.Kind, u.Count, monitor.Bytes(u.Bytes), monitor.Bytes(u.Removable))
					total.Bytes, total.Removable = total.Bytes+u.Bytes, total.Removable+u.Removable
				}
				fmt.Fprintf(w, "all\t\t%s\t%s\n", monitor.Bytes(total.Bytes), monitor.Bytes(total.Removable))
				return w.Flush()
			})
		},
	}
	o.addStore(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
