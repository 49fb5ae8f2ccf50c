package store

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ossify/ossify/overlay"
)

// Link is one of the checkpoints that a tree consists of, as it moves to another store.
type Link struct {
	// Name and Key are what Find looks for.
	Name string `json:"name"`
	Key  string `json:"key"`
	Origin
	Made time.Time `json:"made"`
	// Metadata is what the stage said of itself, Record is the encoded side record of the tree.
	Metadata json.RawMessage `json:"metadata,omitempty"`
	Record   []byte          `json:"-"`
	// Layer is its layer in this store, nil if it is not in it.
	Layer *Layer `json:"-"`
}

// Links describes the checkpoints that a tree consists of, the lowest first.
func (s *Store) Links(top *Layer) ([]Link, error) {
	chain, err := s.Chain(top)
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, l := range chain {
		layer, err := s.storage.Layer(l.ID)
		if err != nil {
			return nil, fmt.Errorf("look up layer %s: %w", l.ID, err)
		}
		link := Link{Key: l.key, Made: layer.Created, Layer: l}
		link.Origin, _ = originOf(layer)
		if len(layer.Names) > 0 {
			link.Name = layer.Names[0]
		}
		if link.Metadata, err = s.Metadata(l); err != nil {
			return nil, err
		}
		if link.Record, err = s.Record(l); err != nil {
			return nil, err
		}
		links = append(links, link)
	}
	return links, nil
}

// Pack writes what the layer itself changed as the archive of a layer of an OCI image.
func (s *Store) Pack(l *Layer, w io.Writer) error {
	upper, err := s.Upper(l)
	if err != nil {
		return err
	}
	return overlay.Pack(upper, w)
}

// Unpack makes the archive that Pack wrote the content of a layer that Create made.
func (s *Store) Unpack(l *Layer, r io.Reader) error {
	upper, err := s.Upper(l)
	if err != nil {
		return err
	}
	return overlay.Unpack(upper, r)
}

// Sync brings what was written to the store's filesystem to the disk.
func (s *Store) Sync() error { return overlay.SyncFilesystem(s.dir) }

// blobName is the file beside a layer's content in which SetBlob notes what is given to it.
const blobName = "ossify-blob"

// SetBlob notes what a registry knows the layer by, so that it is not packed again to find out.
func (s *Store) SetBlob(l *Layer, blob any) error {
	data, err := json.Marshal(blob)
	if err == nil {
		dir := filepath.Join(s.overlayDir(), l.ID)
		// The driver has made overlayDir a mount of its own, into which nothing can be renamed.
		err = writeFile(dir, filepath.Join(dir, blobName), data)
	}
	if err != nil {
		return fmt.Errorf("note the blob of layer %s: %w", l.ID, err)
	}
	return nil
}

// Blob reads what SetBlob noted; false if there is nothing, or nothing that can be read.
func (s *Store) Blob(l *Layer, blob any) bool {
	data, err := os.ReadFile(filepath.Join(s.overlayDir(), l.ID, blobName))
	return err == nil && json.Unmarshal(data, blob) == nil
}
