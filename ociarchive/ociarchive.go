package ociarchive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pyjson"
	"github.com/ossify/ossify/record"
	"github.com/ossify/ossify/tarpack"
)

// Image says what the archive holds.
type Image struct {
	// Architecture and Variant, which may be empty, are Go's names.
	Architecture, Variant string
	// Config is how containers of the image run, as Config returns it.
	Config *pyjson.Object
	// Annotations of the manifest; nil or empty for none.
	Annotations *pyjson.Object
	// Created is the time in the archive's files; TimeFormat is how it is
	// written in the image's configuration.
	Created    time.Time
	TimeFormat string
	// Layers from the lowest to the highest.
	Layers []Layer
	// XAttrs are patterns of the extended attributes that are kept; Labels tells
	// whether SELinux labels of side records are among them.
	XAttrs []string
	Labels bool
}

// Layer is a tree that becomes a layer.
type Layer struct {
	// Path is the directory of the tree, Record the file with its side record, ""
	// for none.
	Path, Record string
	// History is how the image's history says that the layer was made; if it
	// is empty on all layers, the image has no history.
	History string
}

// writer is an archive in the making.
type writer struct {
	args   *module.Args
	module string
	// dir is the layout's directory, blobs that of its content.
	dir, blobs string
}

// Write writes the archive to the file target. Its content is gathered in a
// directory beside target, which is gone at the end. Errors of missing programs
// name the module.
func Write(ctx context.Context, args *module.Args, name, target string, image Image) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(target), ".oci-archive-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w := &writer{args: args, module: name, dir: dir, blobs: filepath.Join(dir, "blobs", "sha256")}
	if err := os.MkdirAll(w.blobs, 0o755); err != nil {
		return err
	}
	if err := w.layout(ctx, image); err != nil {
		return err
	}
	return w.run(ctx, "tar", "--remove-files", "--sort=name", "--no-selinux", "--no-xattrs", "--no-acls",
		"--owner=0", "--group=0", "--numeric-owner", "--mode=go=rX,u+rw,a-s", "--format=posix",
		fmt.Sprintf("--mtime=@%d", image.Created.Unix()), paxOption, "-cf", target,
		"-C", w.dir, "blobs", "index.json", "oci-layout")
}

// paxOption leaves out what differs from one packing to the next.
const paxOption = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"

// layout fills the layout's directory.
func (w *writer) layout(ctx context.Context, image Image) error {
	created := image.Created.UTC().Format(image.TimeFormat)
	var layers, ids, history []any
	for _, layer := range image.Layers {
		id, blob, err := w.layer(ctx, layer, &image)
		if err != nil {
			return fmt.Errorf("pack layer %s: %w", filepath.Base(layer.Path), err)
		}
		layers, ids = append(layers, blob), append(ids, id)
		if layer.History != "" {
			history = append(history, pyjson.NewObject("created", created, "created_by", layer.History))
		}
	}
	config := pyjson.NewObject("created", created, "architecture", image.Architecture, "os", "linux",
		"config", image.Config, "rootfs", pyjson.NewObject("type", "layers", "diff_ids", ids))
	if history != nil {
		config.Set("history", history)
	}
	if image.Variant != "" {
		config.Set("variant", image.Variant)
	}
	configBlob, err := w.json(config, "application/vnd.oci.image.config.v1+json")
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	manifest := pyjson.NewObject("schemaVersion", 2, "config", configBlob, "layers", layers)
	if image.Annotations != nil && len(image.Annotations.Keys) > 0 {
		manifest.Set("annotations", image.Annotations)
	}
	manifestBlob, err := w.json(manifest, "application/vnd.oci.image.manifest.v1+json")
	if err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	index := pyjson.NewObject("schemaVersion", 2, "manifests", []any{manifestBlob})
	version := pyjson.NewObject("imageLayoutVersion", "1.0.0")
	return errors.Join(
		os.WriteFile(filepath.Join(w.dir, "index.json"), pyjson.Dumps(index, false), 0o644),
		os.WriteFile(filepath.Join(w.dir, "oci-layout"), pyjson.Dumps(version, false), 0o644))
}

// layer packs a tree. It returns the digest of the layer and its compressed
// blob's descriptor.
func (w *writer) layer(ctx context.Context, layer Layer, image *Image) (id string, blob *pyjson.Object, err error) {
	entries, err := os.ReadDir(layer.Path)
	if err != nil {
		return "", nil, err
	}
	file := filepath.Join(w.blobs, "layer.tar")
	archive := &tarpack.Archive{
		Module: w.module, Tree: layer.Path, Names: []string{"--"},
		Flags: []string{"--sort=name", "--no-selinux", "--acls", "--xattrs", "--format=posix", paxOption},
	}
	if archive.Record, err = record.Open(layer.Record); err != nil {
		return "", nil, err
	}
	if image.Labels {
		archive.Keywords = tarpack.LabelKeywords(false, true)
	}
	for _, pattern := range image.XAttrs {
		archive.Flags = append(archive.Flags, "--xattrs-include="+pattern)
	}
	for _, entry := range entries {
		archive.Names = append(archive.Names, entry.Name())
	}
	if err := archive.Write(ctx, w.args, file); err != nil {
		return "", nil, err
	}
	sum, err := sumFile(file)
	if err != nil {
		return "", nil, err
	}
	// Without --no-name the time of packing would be in the blob.
	if err := w.run(ctx, "gzip", "--no-name", "-S", ".compressed", file); err != nil {
		return "", nil, err
	}
	blob, err = w.add(file+".compressed", "application/vnd.oci.image.layer.v1.tar+gzip")
	return "sha256:" + sum, blob, err
}

// json adds a JSON document.
func (w *writer) json(document *pyjson.Object, mediaType string) (*pyjson.Object, error) {
	file := filepath.Join(w.blobs, "document")
	if err := os.WriteFile(file, pyjson.Dumps(document, false), 0o644); err != nil {
		return nil, err
	}
	return w.add(file, mediaType)
}

// add gives a file of the blobs its name and returns its descriptor.
func (w *writer) add(file, mediaType string) (*pyjson.Object, error) {
	sum, err := sumFile(file)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	descriptor := pyjson.NewObject("digest", "sha256:"+sum, "size", info.Size(), "mediaType", mediaType)
	return descriptor, os.Rename(file, filepath.Join(w.blobs, sum))
}

func (w *writer) run(ctx context.Context, tool string, argv ...string) error {
	cmd, err := module.HostCommand(ctx, w.args, w.module, tool, argv...)
	if err != nil {
		return err
	}
	return module.RunTool(cmd, io.Discard)
}

func sumFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
