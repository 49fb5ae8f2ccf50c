package store

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/vbatts/tar-split/tar/asm"
	tarstorage "github.com/vbatts/tar-split/tar/storage"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/ioutils"
	"go.podman.io/storage/pkg/lockfile"
)

// ImageName completes the name of an image as podman does for those that were made here: without a
// registry it is in "localhost/", without a tag it is ":latest".
func ImageName(name string) (string, error) {
	first, _, path := strings.Cut(name, "/")
	if !path || !strings.ContainsAny(first, ".:") && first != "localhost" {
		name = "localhost/" + name
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("%q is no name of an image: %w", name, err)
	}
	if _, digested := ref.(reference.Digested); digested {
		return "", fmt.Errorf("%q is the name of an image with a digest: leave that out", name)
	}
	return reference.TagNameOnly(ref).String(), nil
}

// Tag makes an image of a checkpoint, which podman can run, and takes the name away from another.
// The checkpoint stays when podman removes the image. The image is a record of the checkpoint; nothing is copied, but layers that are in no image yet
// are read for their digests. name is one of ImageName's.
func (s *Store) Tag(l *Layer, name string, c Checkpoint) error {
	layers, err := s.digestLayers(l.ID)
	if err != nil {
		return fmt.Errorf("make image %s: %w", name, err)
	}
	if err := s.Untag(name); err != nil && !errors.Is(err, storage.ErrImageUnknown) {
		return err
	}
	chain, err := s.Links(l)
	if err != nil {
		return fmt.Errorf("make image %s: %w", name, err)
	}
	var diffIDs []digest.Digest
	manifest := imgspec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspec.MediaTypeImageManifest}
	for _, layer := range layers {
		manifest.Layers = append(manifest.Layers, imgspec.Descriptor{MediaType: imgspec.MediaTypeImageLayer, Digest: layer.UncompressedDigest, Size: layer.UncompressedSize})
		diffIDs = append(diffIDs, layer.UncompressedDigest)
	}
	configText, err := json.Marshal(ImageConfig(chain, diffIDs))
	if err != nil {
		return fmt.Errorf("make image %s: %w", name, err)
	}
	if err := s.pin(l); err != nil {
		return fmt.Errorf("make image %s: %w", name, err)
	}
	configDigest := digest.FromBytes(configText)
	manifest.Config = imgspec.Descriptor{MediaType: imgspec.MediaTypeImageConfig, Digest: configDigest, Size: int64(len(configText))}
	manifestText, err := json.Marshal(manifest)
	if err != nil {
		return fmt.Errorf("make image %s: %w", name, err)
	}
	manifestDigest := digest.FromBytes(manifestText)
	// The id is the config's digest, as podman's ids are, so that a second name of the
	// checkpoint is one of the same image.
	id := configDigest.Encoded()
	_, err = s.storage.CreateImage(id, []string{name}, l.ID, "", &storage.ImageOptions{
		CreationDate: c.Made, Digest: manifestDigest, Flags: map[string]any{flagRun: s.run.id},
		BigData: []storage.ImageBigDataOption{
			{Key: configDigest.String(), Data: configText, Digest: configDigest},
			{Key: storage.ImageDigestBigDataKey, Data: manifestText, Digest: manifestDigest},
			{Key: storage.ImageDigestBigDataKey + "-" + manifestDigest.String(), Data: manifestText, Digest: manifestDigest},
		},
	})
	if errors.Is(err, storage.ErrDuplicateID) {
		err = s.storage.AddNames(id, []string{name})
	}
	if err != nil {
		return fmt.Errorf("make image %s: %w", name, err)
	}
	return nil
}

// ImageConfig is the config of an image of those checkpoints, the lowest first; diffIDs are the digests of
// their archives.
func ImageConfig(chain []Link, diffIDs []digest.Digest) imgspec.Image {
	top := chain[len(chain)-1]
	made := top.Made.UTC()
	config := imgspec.Image{
		Created:  &made,
		Platform: imgspec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config: imgspec.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"/bin/sh"},
			Labels: map[string]string{"org.ossify.stage.id": top.Name, "org.ossify.stage": top.Stage, "org.ossify.pipeline": top.Pipeline},
		},
		RootFS: imgspec.RootFS{Type: "layers", DiffIDs: diffIDs},
	}
	for _, l := range chain {
		created := l.Made.UTC()
		config.History = append(config.History, imgspec.History{Created: &created, CreatedBy: "ossify " + l.Stage, Comment: l.Name})
	}
	return config
}

// digestLayers returns the layers of a tree, the lowest first, after it has seen to it
// that all have the digest and the size that they would have as an archive: podman takes no
// image of others.
func (s *Store) digestLayers(top string) ([]*storage.Layer, error) {
	var layers []*storage.Layer
	digests := map[string]archived{}
	for id := top; id != ""; {
		layer, err := s.storage.Layer(id)
		if err != nil {
			return nil, err
		}
		if layer.UncompressedDigest == "" {
			if digests[id], err = s.archive(layer); err != nil {
				return nil, fmt.Errorf("read layer %s: %w", id, err)
			}
			layer.UncompressedDigest, layer.UncompressedSize = digests[id].Digest, digests[id].Size
		}
		layers = append(layers, layer)
		id = layer.Parent
	}
	slices.Reverse(layers)
	if len(digests) == 0 {
		return layers, nil
	}
	return layers, s.noteDigests(digests)
}

// archived is a layer as an archive.
type archived struct {
	Digest digest.Digest
	Size   int64
}

// archive reads a layer as the archive that containers/storage makes of it, and keeps all of that
// but the files' contents, as it does itself (tar-split): another version of it would make
// an archive with another digest.
func (s *Store) archive(layer *storage.Layer) (_ archived, err error) {
	plain := archive.Uncompressed
	r, err := s.storage.Diff(layer.Parent, layer.ID, &storage.DiffOptions{Compression: &plain})
	if err != nil {
		return archived{}, err
	}
	defer r.Close()
	split, err := ioutils.NewAtomicFileWriter(filepath.Join(graphRoot(s.dir), "overlay-layers", layer.ID+".tar-split.gz"), 0o600)
	if err != nil {
		return archived{}, err
	}
	defer func() { err = errors.Join(err, split.Close()) }()
	compressor := gzip.NewWriter(split)
	sum := digest.SHA256.Digester()
	count := ioutils.NewWriteCounter(sum.Hash())
	stream, done, err := asm.NewInputTarStreamWithDone(io.TeeReader(r, count), tarstorage.NewJSONPacker(compressor), tarstorage.NewDiscardFilePutter())
	if err != nil {
		return archived{}, err
	}
	_, err = io.Copy(io.Discard, stream)
	err = errors.Join(err, stream.Close(), <-done, compressor.Close())
	return archived{sum.Digest(), count.Count}, err
}

// noteDigests writes digests and sizes of layers into containers/storage's own record,
// layers.json, which only reading an archive into a layer does otherwise (Layer in its
// layers.go says what the fields are). All else in there stays as it is.
func (s *Store) noteDigests(digests map[string]archived) (err error) {
	path := filepath.Join(graphRoot(s.dir), "overlay-layers", "layers.json")
	lock, err := lockfile.GetLockFile(filepath.Join(filepath.Dir(path), "layers.lock"))
	if err != nil {
		return fmt.Errorf("note digests of layers: %w", err)
	}
	lock.Lock()
	defer lock.Unlock()
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("note digests of layers: %w", err)
	}
	var layers []map[string]json.RawMessage
	if err := json.Unmarshal(data, &layers); err != nil {
		return fmt.Errorf("note digests of layers: %s: %w", path, err)
	}
	for _, layer := range layers {
		var id string
		if err := json.Unmarshal(layer["id"], &id); err != nil {
			return fmt.Errorf("note digests of layers: %s: %w", path, err)
		}
		if a, ok := digests[id]; ok {
			layer["diff-digest"] = json.RawMessage(strconv.Quote(a.Digest.String()))
			layer["diff-size"] = json.RawMessage(strconv.FormatInt(a.Size, 10))
		}
	}
	if data, err = json.Marshal(layers); err == nil {
		err = ioutils.AtomicWriteFile(path, data, 0o600)
	}
	if err == nil {
		_, err = lock.RecordWrite()
	}
	if err != nil {
		return fmt.Errorf("note digests of layers: %w", err)
	}
	return nil
}

// Untag takes a name away from its image; one of Tag's without a name goes, its checkpoint
// stays. The error is storage.ErrImageUnknown if nothing has the name.
func (s *Store) Untag(name string) error {
	image, err := s.storage.Image(name)
	if err != nil {
		return fmt.Errorf("find image %s: %w", name, err)
	}
	if _, ours := image.Flags[flagRun]; !ours || len(image.Names) > 1 {
		err = s.storage.RemoveNames(image.ID, []string{name})
	} else {
		// Delete, unlike DeleteImage, leaves the layers.
		err = s.storage.Delete(image.ID)
	}
	if err != nil {
		return fmt.Errorf("take the name %s away: %w", name, err)
	}
	return s.unpinUnused(image.TopLayer)
}

// pinPrefix begins the name of a layer that is there only to be based on a checkpoint: when podman
// removes an image it leaves layers on which others are based.
const pinPrefix = "ossify-pin-"

func isPin(l *storage.Layer) bool {
	_, ours := l.Flags[flagRun]
	return ours && slices.ContainsFunc(l.Names, func(name string) bool { return strings.HasPrefix(name, pinPrefix) })
}

// pin keeps a layer that is to become an image.
func (s *Store) pin(l *Layer) error {
	if s.storage.Exists(pinPrefix + l.ID) {
		return nil
	}
	_, err := s.storage.CreateLayer("", l.ID, []string{pinPrefix + l.ID}, "", false, &storage.LayerOptions{Flags: map[string]any{flagRun: s.run.id}})
	if errors.Is(err, storage.ErrDuplicateName) {
		return nil
	}
	return err
}

// unpin takes the layer of pin away.
func (s *Store) unpin(id string) error {
	pin, err := s.storage.Layer(pinPrefix + id)
	if err == nil {
		err = s.storage.DeleteLayer(pin.ID)
	}
	if err != nil && !errors.Is(err, storage.ErrLayerUnknown) {
		return fmt.Errorf("delete the layer that keeps %s: %w", id, err)
	}
	return nil
}

// unpinUnused takes the layer of pin away if no image needs it any more.
func (s *Store) unpinUnused(id string) error {
	images, err := s.storage.Images()
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	if slices.ContainsFunc(images, func(image storage.Image) bool { return image.TopLayer == id }) {
		return nil
	}
	return s.unpin(id)
}
