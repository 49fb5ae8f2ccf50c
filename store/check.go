package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/ossify/ossify/overlay"
	"go.podman.io/storage"
	"golang.org/x/sync/errgroup"
)

// Damage is something in the store that is not as it was stored.
type Damage struct {
	// Kind is "checkpoint", "download" or "image".
	Kind string `json:"kind"`
	// ID is the checkpoint's name, the download's checksum, or the image's id.
	ID string `json:"id"`
	// Layer is that of a checkpoint.
	Layer string `json:"layer,omitempty"`
	Origin
	// Path is in the checkpoint's tree, "" if it is not about one.
	Path string `json:"path,omitempty"`
	What string `json:"what"`
	file string
}

// Checked is what Check has found.
type Checked struct {
	Damages []Damage `json:"damages"`
	// Checkpoints, Downloads and Images were read; Unknown checkpoints have no sums, as they
	// were made by an older version.
	Checkpoints int `json:"checkpoints"`
	Unknown     int `json:"unknown"`
	Downloads   int `json:"downloads"`
	Images      int `json:"images"`
}

// Check reads all that the store holds and compares it with what was noted when it was stored.
// Other engines can go on with their work. The damages are sorted.
func (s *Store) Check(ctx context.Context) (*Checked, error) {
	c := &checker{store: s, found: Checked{Damages: []Damage{}}}
	list, err := s.Checkpoints()
	if err != nil {
		return nil, err
	}
	images, err := s.storage.Images()
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	downloads, err := filepath.Glob(filepath.Join(s.Sources(), "*", "*:*"))
	if err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, l := range list {
		if l.ID == "" || l.Failed {
			continue // it is in the making, or what a failed stage left
		}
		group.Go(func() error {
			c.checkpoint(l)
			return context.Cause(ctx)
		})
	}
	for _, path := range downloads {
		group.Go(func() error {
			c.download(path)
			return context.Cause(ctx)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if len(images) > 0 {
		if err := c.images(images); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(c.found.Damages, func(a, b Damage) int {
		return strings.Compare(a.Kind+a.ID+"\x00"+a.Path+a.What, b.Kind+b.ID+"\x00"+b.Path+b.What)
	})
	return &c.found, nil
}

// Verify reads a checkpoint and those that it is based on. The error is of type *DamagedError if
// one of them has changed.
func (s *Store) Verify(l *Layer) error {
	list, err := s.Checkpoints()
	if err != nil {
		return err
	}
	byLayer := map[string]Checkpoint{}
	for _, c := range list {
		byLayer[c.Layer] = c
	}
	for c, ok := byLayer[l.ID]; ok; c, ok = byLayer[c.Base] {
		found := &checker{store: s}
		found.checkpoint(c)
		if len(found.found.Damages) > 0 {
			return &DamagedError{found.found.Damages[0]}
		}
	}
	return nil
}

// DamagedError says that something has changed in the store.
type DamagedError struct{ Damage Damage }

// Error names what is damaged, and what to do.
func (e *DamagedError) Error() string {
	return e.Damage.String() + "; ossify store check --repair removes it, and the next build makes it again"
}

// String is one line about the damage.
func (d *Damage) String() string {
	parts := []string{d.Kind + " " + d.ID}
	if d.Stage != "" && d.Pipeline != "" {
		parts[0] += fmt.Sprintf(" (%s of pipeline %s)", d.Stage, d.Pipeline)
	}
	if d.Path != "" {
		parts = append(parts, d.Path)
	}
	return strings.Join(append(parts, d.What), ": ")
}

type checker struct {
	store *Store
	mu    sync.Mutex
	found Checked
}

func (c *checker) damage(d Damage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found.Damages = append(c.found.Damages, d)
}

func (c *checker) count(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

func (c *checker) checkpoint(l Checkpoint) {
	c.count(&c.found.Checkpoints)
	found := func(path, what string) {
		c.damage(Damage{Kind: "checkpoint", ID: l.ID, Layer: l.Layer, Origin: l.Origin, Path: path, What: what})
	}
	layer, err := c.store.storage.Layer(l.Layer)
	if errors.Is(err, storage.ErrLayerUnknown) {
		return // removed meanwhile
	}
	if err != nil {
		found("", err.Error())
		return
	}
	upper, err := c.directories(layer)
	if err != nil {
		found("", err.Error())
		return
	}
	lines, end, err := readSums(filepath.Dir(upper))
	if errors.Is(err, errNoSums) {
		c.count(&c.found.Unknown)
		return
	}
	if err != nil {
		found("", err.Error())
		return
	}
	if !slices.Equal(layer.Names, end.Layer.Names) || layer.Parent != end.Layer.Parent || layer.ID != end.Layer.ID ||
		!reflect.DeepEqual(layer.Flags, end.Layer.Flags) || !slices.Equal(layer.BigDataNames, end.Layer.BigDataNames) {
		found("", "its record in layers.json has changed")
	}
	for name, want := range end.Data {
		if err := c.data(layer.ID, name, want); err != nil {
			found("", err.Error())
		}
	}
	if err := overlay.CheckSums(upper, bytes.NewReader(lines), found); err != nil {
		found("", err.Error())
	}
}

// directories finds the directory of the layer, and sees that those of the ones below are what
// containers/storage mounts under it.
func (c *checker) directories(layer *storage.Layer) (upper string, err error) {
	dirs, err := c.store.findDirs(layer.ID)
	if err != nil {
		return "", err
	}
	var below []string
	for id := layer.Parent; id != ""; {
		l, err := c.store.storage.Layer(id)
		if err != nil {
			return "", fmt.Errorf("the layer %s that it is based on: %w", id, err)
		}
		below = append(below, filepath.Join(c.store.overlayDir(), id, "diff"))
		id = l.Parent
	}
	name, err := os.ReadFile(filepath.Join(filepath.Dir(dirs.upper), "link"))
	if err != nil {
		return "", err
	}
	if to, err := os.Readlink(filepath.Join(c.store.overlayDir(), "l", string(name))); err != nil || to != filepath.Join("..", layer.ID, "diff") {
		return "", errors.New("its short name has changed")
	}
	links, err := linkedBelow(c.store.overlayDir(), layer.ID)
	if err != nil {
		return "", err
	}
	if !slices.Equal(below, dirs.lower) || !slices.Equal(below, links) {
		return "", errors.New("the list of layers that it is based on has changed")
	}
	for _, dir := range append(below, dirs.upper) {
		if st, err := os.Stat(dir); err != nil {
			return "", err
		} else if !st.IsDir() {
			return "", fmt.Errorf("%s is no directory", dir)
		}
	}
	return dirs.upper, nil
}

// linkedBelow returns the directories that the layer is based on as older versions of podman find them, by
// the links that its file "lower" lists.
func linkedBelow(dir, id string) (below []string, err error) {
	list, err := os.ReadFile(filepath.Join(dir, id, "lower"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for link := range strings.SplitSeq(string(list), ":") {
		target, err := os.Readlink(filepath.Join(dir, link))
		if err != nil {
			return nil, err
		}
		below = append(below, filepath.Join(dir, "l", target))
	}
	return below, nil
}

func (c *checker) data(layer, name, want string) error {
	r, err := c.store.storage.LayerBigData(layer, name)
	if err != nil {
		return fmt.Errorf("%s cannot be read: %w", name, err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("%s cannot be read: %w", name, err)
	}
	if digestOf(data) != want {
		return fmt.Errorf("%s has changed", name)
	}
	return nil
}

func (c *checker) download(path string) {
	c.count(&c.found.Downloads)
	if err := checkDownload(path); err != nil {
		c.damage(Damage{Kind: "download", ID: filepath.Base(path), What: err.Error(), file: path})
	}
}

// checkDownload checks a file that has its checksum as its name, and of a directory those that have.
func checkDownload(path string) error {
	return filepath.WalkDir(path, func(file string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name := filepath.Base(file)
		if file != path {
			name = "sha256:" + name
		}
		want := digest.Digest(name)
		if want.Validate() != nil {
			return nil
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		sum, err := want.Algorithm().FromReader(f)
		if err == nil && sum != want {
			return errors.New("its content has another checksum")
		}
		return err
	})
}

// DropDamaged removes downloads whose content has changed since they came, so that they are
// fetched again, and returns their checksums.
func (s *Store) DropDamaged(checksums []string) (dropped []string, err error) {
	kinds, err := os.ReadDir(s.Sources())
	if err != nil {
		return nil, fmt.Errorf("look up downloads: %w", err)
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for _, checksum := range checksums {
		for _, kind := range kinds {
			path := filepath.Join(s.Sources(), kind.Name(), checksum)
			group.Go(func() error {
				if err := checkDownload(path); err == nil || errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				mu.Lock()
				defer mu.Unlock()
				dropped = append(dropped, checksum)
				return os.RemoveAll(path)
			})
		}
	}
	if err := group.Wait(); err != nil {
		return dropped, fmt.Errorf("remove a damaged download: %w", err)
	}
	slices.Sort(dropped)
	return dropped, nil
}

// images has containers/storage check what it knows of images and their layers.
func (c *checker) images(images []storage.Image) error {
	c.found.Images = len(images)
	// A checkpoint without an image is no damage.
	ages := 100 * 365 * 24 * time.Hour
	report, err := c.store.storage.Check(&storage.CheckOptions{LayerUnreferencedMaximumAge: &ages, LayerDigests: true, LayerData: true, ImageData: true})
	if err != nil {
		return fmt.Errorf("check images: %w", err)
	}
	names := map[string]string{}
	for _, image := range images {
		names[image.ID] = strings.Join(append(slices.Clone(image.Names), image.ID)[:1], "")
	}
	for id, errs := range report.Images {
		// The others are of the same layers, or below.
		c.damage(Damage{Kind: "image", ID: names[id], What: errs[0].Error(), file: id})
	}
	return nil
}

// Repair removes what is damaged, and what is based on it: the checkpoints, with their images, and
// downloads. The next build makes them again. It fails with ErrBusy if another engine has
// the store open.
func (s *Store) Repair(damages []Damage) (*Shrunk, error) {
	if err := s.alone(); err != nil {
		return nil, err
	}
	var layers []string
	var foreign error
	done := &Shrunk{}
	for _, d := range damages {
		switch d.Kind {
		case "checkpoint":
			layers = append(layers, d.Layer)
		case "download":
			if err := os.RemoveAll(d.file); err != nil {
				return done, err
			}
		case "image":
			err := s.removeImage(d.file)
			if errors.Is(err, errForeign) {
				foreign = errors.Join(foreign, err)
			} else if err != nil {
				return done, err
			}
		}
	}
	if len(layers) == 0 {
		return done, foreign
	}
	if err := s.removeImagesOn(layers); err != nil {
		return done, err
	}
	done, err := s.Remove(layers, true)
	return done, errors.Join(err, foreign)
}

var errForeign = errors.New("it is not ossify's: remove it with podman rmi")

// removeImage removes an image of Tag's; others are their program's.
func (s *Store) removeImage(id string) error {
	image, err := s.storage.Image(id)
	if errors.Is(err, storage.ErrImageUnknown) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find image %s: %w", id, err)
	}
	if _, ours := image.Flags[flagRun]; !ours {
		return fmt.Errorf("image %s: %w", id, errForeign)
	}
	// Delete, unlike DeleteImage, leaves the layers.
	if err := s.storage.Delete(image.ID); err != nil {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	return s.unpinUnused(image.TopLayer)
}

// removeImagesOn removes the images of Tag's that are based on those layers.
func (s *Store) removeImagesOn(layers []string) error {
	images, err := s.storage.Images()
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, image := range images {
		if _, ours := image.Flags[flagRun]; !ours {
			continue
		}
		for id := image.TopLayer; id != ""; {
			if slices.Contains(layers, id) {
				if err := s.removeImage(image.ID); err != nil {
					return err
				}
				break
			}
			l, err := s.storage.Layer(id)
			if err != nil {
				break // Remove says what is wrong with it
			}
			id = l.Parent
		}
	}
	return nil
}
