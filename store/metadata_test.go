package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.podman.io/storage"
)

// FuzzMetadata reads the records of a store with anything in them: a checkpoint is taken from its
// sums only if they are whole, and what is no record is named.
func FuzzMetadata(f *testing.F) {
	seal := func(lines string, end any) []byte {
		data, err := json.Marshal(end)
		if err != nil {
			f.Fatal(err)
		}
		text := append([]byte(lines), append(data, '\n')...)
		return fmt.Appendf(text, "%s\n", digestOf(text))
	}
	layer := storage.Layer{ID: "layer", Names: []string{"x"}, Flags: map[string]any{flagKey: "k", flagOrigin: Origin{Pipeline: "p"}.flag()}}
	for _, data := range [][]byte{
		seal("/ dir\n", sealed{Layer: layer, Data: map[string]string{"meta": digestOf(nil)}}), seal("", sealed{}), seal("", []int{1}), seal("x", nil),
		nil, []byte("\n"), []byte("\n\n\n"), []byte("[]"), []byte(`[{"id": "layer", "parent": "layer", "flags": {"ossify-origin": 7}}]`), []byte(`[null]`), []byte(`{}`), []byte("[{"),
	} {
		f.Add(data)
	}
	dir := f.TempDir()
	layerDir := filepath.Join(graphRoot(dir), "overlay", "layer")
	for _, d := range []string{layerDir, filepath.Join(graphRoot(dir), "overlay-layers"), filepath.Join(graphRoot(dir), "overlay-images")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			f.Fatal(err)
		}
	}
	write := func(t *testing.T, path string, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// As it is, and as if its sum were right.
		for _, text := range [][]byte{data, fmt.Appendf(bytes.Clone(data), "%s\n", digestOf(data))} {
			write(t, filepath.Join(layerDir, sumsName), text)
			lines, end, err := readSums(layerDir)
			if (err == nil) != (end != nil) {
				t.Fatalf("%q: %v, %v", text, end, err)
			}
			if err == nil && !bytes.HasPrefix(text, lines) {
				t.Errorf("%q has the lines %q", text, lines)
			}
			layers, listErr := sealedLayers(dir)
			if listErr != nil {
				t.Fatal(listErr)
			}
			for _, l := range layers {
				if err != nil || l.ID != "layer" || l.Parent != "" {
					t.Errorf("%q: the layer %+v is taken, %v", text, l, err)
				}
				originOf(&l)
			}
		}
		var list []storage.Layer
		if json.Unmarshal(data, &list) == nil {
			for i := range list {
				originOf(&list[i])
			}
		}
		for _, record := range []string{layersRecord, imagesRecord} {
			path := filepath.Join(graphRoot(dir), record)
			write(t, path, data)
			err := checkMetadata(dir)
			if damaged := (*MetadataError)(nil); len(data) == 0 && (!errors.As(err, &damaged) || damaged.Path != path) {
				t.Errorf("an empty record is taken: %v", err)
			} else if len(data) > 0 && err != nil {
				t.Errorf("%q: %v", data, err)
			}
			var raw []json.RawMessage
			damaged := (*MetadataError)(nil)
			if err := explain(dir, errors.New("x")); errors.As(err, &damaged) == (json.Unmarshal(data, &raw) == nil) {
				t.Errorf("%q: %v", data, err)
			}
			write(t, path, []byte("[]"))
		}
		// Short names are whatever a power cut has left.
		write(t, filepath.Join(layerDir, "link"), data)
		if err := os.RemoveAll(filepath.Join(graphRoot(dir), "overlay", "l")); err != nil {
			t.Fatal(err)
		}
		if err := mendLinks(dir); err == nil {
			names, err := os.ReadDir(filepath.Join(graphRoot(dir), "overlay", "l"))
			if err != nil || len(names) != 1 {
				t.Errorf("%q: %d names, %v", data, len(names), err)
			}
		}
		entries, err := os.ReadDir(graphRoot(dir))
		if err != nil || len(entries) != 3 {
			t.Errorf("%q: %v in the storage, %v", data, entries, err)
		}
	})
}
