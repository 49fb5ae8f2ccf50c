package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
)

// blameOptions are those of ossify blame.
type blameOptions struct {
	buildOptions
	pipeline string
	below    bool
}

func blameCommand() *cobra.Command {
	var o blameOptions
	cmd := &cobra.Command{
		Use:   "blame MANIFEST PATH",
		Short: "Show which stages made and changed a file",
		Long: `Shows which stages of the manifest's last pipeline that has the path, or of another one
(--pipeline), have made, changed or removed what is at a path of its tree, the first one at the
top: the stage's id, its index and name, and what it did. A file that a stage wrote again as it was is not changed by it;
times do not count. No link on the way to the path is followed.

With --below everything that is at and below the path now is listed, by path, with the stage that
has changed it last.

The trees have to be in the store, as the same manifest, modules and options make them. If that is
so for the first stages only, the others are named.

With --json the output is an object with "pipeline", "path", "changes", of which each has "path",
"id", "stage", "index", "change" (created, changed or removed) and "what" (in words), and
"unknown", the stages whose trees are not in the store, each with "id", "stage" and "index".`,
		Args:              arguments(2, 2, "a manifest and a path are"),
		ValidArgsFunction: completeManifest,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.blame(cmd.Context(), args[0], path.Clean("/"+args[1]))
		},
	}
	o.addEngine(cmd)
	o.early.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.pipeline, "pipeline", "", "pipeline, by name or id, whose tree is looked at (default: the last one that has the path)")
	f.BoolVarP(&o.below, "below", "r", false, "list also what is below the path, with the last stage only")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// blamedStage is a stage of the pipeline.
type blamedStage struct {
	ID    string `json:"id"`
	Stage string `json:"stage"`
	Index int    `json:"index"`
}

// blamedChange is what a stage did to a path.
type blamedChange struct {
	Path string `json:"path"`
	blamedStage
	Change string `json:"change"`
	What   string `json:"what"`
}

const blameRemoved = "removed"

// take says what the difference is that the stage has made.
func (c *blamedChange) take(d overlay.Difference) {
	switch {
	case d.A == nil:
		c.Path, c.Change, c.What = d.B.Path, "created", describe(d.B)
	case d.B == nil:
		c.Path, c.Change, c.What = d.A.Path, blameRemoved, describe(d.A)
	default:
		c.Path, c.Change, c.What = d.A.Path, "changed", changes(d)
	}
}

// blamed is the answer.
type blamed struct {
	Pipeline string         `json:"pipeline"`
	Path     string         `json:"path"`
	Changes  []blamedChange `json:"changes"`
	Unknown  []blamedStage  `json:"unknown"`
	// removed says that something was there, but is not now.
	removed bool
}

// errNotThere says that a tree does not have the path, or is not there itself.
var errNotThere = errors.New("not there")

func (o *blameOptions) blame(ctx context.Context, manifest, name string) error {
	prepare := func() (func() error, error) { return func() error { return nil }, o.exists() }
	return o.withManifest(ctx, manifest, prepare, func(e *engine, m *pipeline.Manifest) error {
		pipelines, err := o.pipelines(m)
		if err != nil {
			return err
		}
		var first error
		for i, p := range pipelines {
			out, err := o.blamePipeline(ctx, e, m, p, name)
			if errors.Is(err, errNotThere) {
				if first == nil {
					first = err
				}
				continue
			}
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, out)
			}
			if i > 0 {
				fmt.Fprintf(os.Stderr, "ossify: note: this is the tree of pipeline %q; --pipeline chooses another\n", p.Name)
			}
			out.tellUnknown()
			return out.show(os.Stdout, o.below)
		}
		return first
	})
}

// pipelines are those that are looked at, one after the other, until one has the path.
func (o *blameOptions) pipelines(m *pipeline.Manifest) ([]*pipeline.Pipeline, error) {
	if o.pipeline != "" {
		p := m.Pipeline(o.pipeline)
		if p == nil {
			return nil, fmt.Errorf("%q is no pipeline of %s; it has: %s", o.pipeline, m.Name, strings.Join(m.Names(), ", "))
		}
		if len(p.Stages) == 0 {
			return nil, fmt.Errorf("pipeline %q has no stages, and so no tree", p.Name)
		}
		return []*pipeline.Pipeline{p}, nil
	}
	var all []*pipeline.Pipeline
	for _, p := range slices.Backward(m.Pipelines) {
		if len(p.Stages) > 0 {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no pipelines with stages", m.Name)
	}
	return all, nil
}

// blamePipeline looks at one tree. The error is errNotThere if another one may have the path.
func (o *blameOptions) blamePipeline(ctx context.Context, e *engine, m *pipeline.Manifest, p *pipeline.Pipeline, name string) (*blamed, error) {
	layers, err := m.Layers(p, o.runOptions(e, nil))
	if err != nil {
		return nil, err
	}
	if len(layers) == 0 {
		return nil, fmt.Errorf("a tree of pipeline %q is %w: this manifest, with these options and modules, has none in the store; build it with --checkpoint %s", p.Name, errNotThere, p.Name)
	}
	out := &blamed{Pipeline: p.Name, Path: name, Changes: []blamedChange{}, Unknown: []blamedStage{}}
	for _, s := range p.Stages[len(layers):] {
		out.Unknown = append(out.Unknown, blamedStage{s.ID, s.Name, s.Index})
	}
	if err := out.find(ctx, e.store, p, layers, o.below); err != nil {
		return nil, err
	}
	if len(out.Changes) == 0 {
		return nil, out.nothing(e.store, m, layers[len(layers)-1])
	}
	return out, nil
}

// find fills in the changes: all of those of the path, or the last ones of what is at and
// below it.
func (b *blamed) find(ctx context.Context, s *store.Store, p *pipeline.Pipeline, layers []*store.Layer, below bool) (err error) {
	last := map[string]blamedChange{}
	var before overlay.Tree // first there is none
	release := func() error { return nil }
	defer func() { err = errors.Join(err, release()) }()
	for i, layer := range layers {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		upper, err := s.Upper(layer)
		if err != nil {
			return err
		}
		after, releaseAfter, err := mountLayer(s, layer)
		if err != nil {
			return err
		}
		stage := blamedStage{p.Stages[i].ID, p.Stages[i].Name, i}
		err = overlay.CompareLayer(before, after, upper, b.Path, below, func(d overlay.Difference) error {
			change := blamedChange{blamedStage: stage}
			change.take(d)
			switch {
			case !below:
				b.Changes = append(b.Changes, change)
			case change.Change == blameRemoved:
				delete(last, change.Path)
				b.removed = true
			default:
				last[change.Path] = change
			}
			return nil
		})
		err = errors.Join(err, release())
		before, release = after, releaseAfter
		if err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(last)) {
		b.Changes = append(b.Changes, last[name])
	}
	return nil
}

// nothing says why there is nothing to tell about the path.
func (b *blamed) nothing(s *store.Store, m *pipeline.Manifest, top *store.Layer) (err error) {
	if b.removed {
		return fmt.Errorf("%s is not in the tree of pipeline %q any more: leave out --below to see what was done to it", printable(b.Path), b.Pipeline)
	}
	tree, release, err := mountLayer(s, top)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	for dir := path.Dir(b.Path); dir != "/"; dir = path.Dir(dir) {
		f, err := tree.Lookup(dir)
		if err != nil {
			return err
		}
		if f != nil && f.Target != "" {
			return fmt.Errorf("%s is not in the tree of pipeline %q: %s is a link to %s, ask for what is there", printable(b.Path), b.Pipeline, printable(dir), printable(f.Target))
		}
	}
	known := ""
	if len(b.Unknown) > 0 {
		known = fmt.Sprintf(", as far as its trees are in the store (up to stage %d)", b.Unknown[0].Index-1)
	}
	return fmt.Errorf("%s is %w in the tree of pipeline %q and never was%s; %s has the pipelines %s", printable(b.Path), errNotThere, b.Pipeline, known, m.Name, strings.Join(m.Names(), ", "))
}

// tellUnknown says which stages may have changed the path, too.
func (b *blamed) tellUnknown() {
	if len(b.Unknown) == 0 {
		return
	}
	first, last := b.Unknown[0], b.Unknown[len(b.Unknown)-1]
	which := fmt.Sprintf("tree of stage %d (%s) is", first.Index, printable(first.Stage))
	if first != last {
		which = fmt.Sprintf("trees of stages %d (%s) to %d (%s) are", first.Index, printable(first.Stage), last.Index, printable(last.Stage))
	}
	fmt.Fprintf(os.Stderr, "ossify: note: the %s not in the store: what is changed from there on is not known\n", which)
}

func (b *blamed) show(to io.Writer, below bool) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, c := range b.Changes {
		at := ""
		if below {
			at = printable(c.Path) + ": "
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s%s %s\n", short(c.ID), c.Index, printable(c.Stage), at, c.Change, c.What)
	}
	return w.Flush()
}
