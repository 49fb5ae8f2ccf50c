package store

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.podman.io/storage"
)

// Origin is the stage whose tree a checkpoint is. It has the names of the manifest that was
// built first; others can have the same stage.
type Origin struct {
	Pipeline string `json:"pipeline"`
	Stage    string `json:"stage"`
	// Build is the id of the tree that is the stage's build root, "" for this machine; Root is
	// the key with which that was prepared, "" if the store does not know.
	Build string `json:"build,omitempty"`
	Root  string `json:"root,omitempty"`
}

// flag is how a layer has it, originOf reads that.
func (o Origin) flag() map[string]any {
	return map[string]any{"pipeline": o.Pipeline, "stage": o.Stage, "build": o.Build, "root": o.Root}
}

func originOf(l *storage.Layer) (o Origin, ok bool) {
	flag, ok := l.Flags[flagOrigin].(map[string]any)
	for name, value := range map[string]*string{"pipeline": &o.Pipeline, "stage": &o.Stage, "build": &o.Build, "root": &o.Root} {
		*value, _ = flag[name].(string)
	}
	return o, ok
}

// Checkpoint describes a stored tree.
type Checkpoint struct {
	// ID is the stage's id, or "" for one that only others are based on.
	ID string `json:"id"`
	// Layer is the id of the containers/storage layer.
	Layer string `json:"layer"`
	Origin
	// Prepared says that it is no stage's, but a build root that was made ready.
	Prepared bool `json:"prepared,omitempty"`
	// Failed says that it is the tree that a failed stage left.
	Failed bool `json:"failed,omitempty"`
	// Base is the layer it is based on, "" for none.
	Base string `json:"base,omitempty"`
	// Above counts the layers that are based on it, Images names those images whose
	// tree it is.
	Above  int      `json:"above"`
	Images []string `json:"images,omitempty"`

	Made time.Time `json:"made"`
	Used time.Time `json:"used"`
	// Uses counts builds and commands that have used it since it was made.
	Uses int64 `json:"uses"`
	// Own is what it takes on disk in bytes, Shared what the layers below it take.
	Own    int64 `json:"own"`
	Shared int64 `json:"shared"`
}

// isStage says whether a layer is a checkpoint of a stage, not a prepared build root.
func isStage(l *storage.Layer) bool {
	return slices.ContainsFunc(l.Names, func(name string) bool {
		return strings.HasPrefix(name, failedPrefix) || len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
	})
}

// Checkpoints lists the checkpoints of the store, those that were made first at the
// beginning. The sizes of those that nobody has asked for before take time to add up.
func (s *Store) Checkpoints() ([]Checkpoint, error) {
	layers, err := s.storage.Layers()
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	images, err := s.storage.Images()
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	byID, above, tops := map[string]*storage.Layer{}, map[string]int{}, map[string][]string{}
	for i := range layers {
		byID[layers[i].ID] = &layers[i]
		if !isPin(&layers[i]) {
			above[layers[i].Parent]++
		}
	}
	for _, image := range images {
		tops[image.TopLayer] = append(tops[image.TopLayer], cmp.Or(strings.Join(image.Names, ", "), image.ID))
	}
	sizes := map[string]int64{}
	size := func(id string) (int64, error) {
		if n, ok := sizes[id]; ok {
			return n, nil
		}
		n, err := s.layerSize(id)
		sizes[id] = n
		return n, err
	}
	var out []Checkpoint
	for i := range layers {
		l := &layers[i]
		if _, ours := l.Flags[flagRun]; !ours || isPin(l) {
			continue
		}
		c := Checkpoint{Layer: l.ID, Base: l.Parent, Prepared: !isStage(l), Above: above[l.ID], Images: tops[l.ID], Made: l.Created, Used: s.lastUsed(l), Uses: s.uses(l.ID)}
		if len(l.Names) > 0 {
			c.ID = l.Names[0]
		}
		if name, ok := strings.CutPrefix(c.ID, failedPrefix); ok {
			c.ID, c.Pipeline, c.Failed = "", name, true
		}
		if o, ok := originOf(l); ok {
			c.Origin = o
		}
		if c.Own, err = size(l.ID); err != nil {
			return nil, err
		}
		for p := byID[l.Parent]; p != nil; p = byID[p.Parent] {
			n, err := size(p.ID)
			if err != nil {
				return nil, err
			}
			c.Shared += n
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b Checkpoint) int { return a.Made.Compare(b.Made) })
	return out, nil
}

// uses is how often a layer was used: each use is a byte of a file, which several
// processes can append to.
func (s *Store) uses(id string) int64 {
	st, err := os.Stat(s.usage(id) + usesSuffix)
	if err != nil {
		return 0
	}
	return st.Size()
}

const usesSuffix = ".uses"

// Remove removes checkpoints, given by their layers. With above those that are based on them
// go, too; otherwise it is an error if there are some. What other programs need stays.
func (s *Store) Remove(ids []string, above bool) (*Shrunk, error) {
	if err := s.alone(); err != nil {
		return nil, err
	}
	items, err := s.layerItems()
	if err != nil {
		return nil, err
	}
	layers, err := s.storage.Layers()
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	gone, names := map[string]bool{}, map[string]string{}
	for _, id := range ids {
		gone[id] = true
	}
	for _, l := range layers {
		names[l.ID] = strings.Join(append(slices.Clone(l.Names), l.ID)[:1], "")
	}
	for more := true; more; {
		more = false
		for _, l := range layers {
			if gone[l.Parent] && !gone[l.ID] && !isPin(&l) {
				if !above {
					return nil, fmt.Errorf("checkpoint %s is the base of others: remove them as well, or add --above", names[l.Parent])
				}
				gone[l.ID], more = true, true
			}
		}
	}
	slices.SortFunc(items, func(a, b item) int { return cmp.Compare(b.depth, a.depth) })
	for _, it := range items {
		if gone[it.layer] && it.remove == nil {
			return nil, fmt.Errorf("an image or a layer that is not ossify's is based on checkpoint %s: remove that first", names[it.layer])
		}
	}
	done := &Shrunk{}
	for _, it := range items {
		if !gone[it.layer] {
			continue
		}
		if err := it.remove(); err != nil {
			return done, err
		}
		done.Removed++
		done.Freed += it.size
	}
	return done, nil
}

// Usage is how much there is of one kind of content.
type Usage struct {
	Kind  string `json:"kind"`
	Count int    `json:"count"`
	// Bytes are on disk; Removable those that nothing but time keeps.
	Bytes     int64 `json:"bytes"`
	Removable int64 `json:"removable"`
}

// Usage adds up what the store holds.
func (s *Store) Usage() ([]Usage, error) {
	layers, err := s.layerItems()
	if err != nil {
		return nil, err
	}
	out := []Usage{sum("checkpoints", layers)}
	for _, kind := range contents {
		items, err := pathItems(filepath.Join(s.dir, kind.pattern))
		if err != nil {
			return nil, err
		}
		out = append(out, sum(kind.name, items))
	}
	return out, nil
}

func sum(kind string, items []item) Usage {
	u := Usage{Kind: kind, Count: len(items)}
	for _, it := range items {
		u.Bytes += it.size
		if it.remove != nil {
			u.Removable += it.size
		}
	}
	return u
}

// contents are what the store holds beside checkpoints.
var contents = []struct{ name, pattern string }{
	{"downloads", "sources/*/*"}, {"outputs", "refs/*"}, {"modules", "lib/*"},
	{"package lists", "solver/*"}, {"digests", "digests/*"},
}
