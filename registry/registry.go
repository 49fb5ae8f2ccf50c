// Package registry keeps checkpoints in a repository of an OCI registry, so that other machines need
// not build them again.
//
// A checkpoint is an image there, with a layer for each stage and two tags: ID and ID-KEY, the
// latter with the beginning of the key with which it is used again. What an image does not
// have, such as metadata and side records, is in its config beside what the OCI image
// specification says.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/docker/distribution/registry/api/errcode"
	v2 "github.com/docker/distribution/registry/api/v2"
	"github.com/opencontainers/go-digest"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ossify/ossify/store"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/types"
)

// ArtifactType is that of the manifests of checkpoints.
const ArtifactType = "application/vnd.ossify.checkpoint.v1"

// Annotations of a checkpoint's manifest.
const (
	annotationID       = "org.ossify.stage.id"
	annotationKey      = "org.ossify.stage.key"
	annotationStage    = "org.ossify.stage"
	annotationPipeline = "org.ossify.pipeline"
)

// Options say how a registry is reached.
type Options struct {
	// Insecure is for registries without TLS, or whose certificate nobody knows.
	Insecure bool
	// AuthFile has the credentials; "" stands for podman's and docker's places
	// (containers-auth.json(5)).
	AuthFile string
}

// Cache is a repository with checkpoints. Its methods are safe for concurrent use.
type Cache struct {
	name reference.Named
	sys  *types.SystemContext

	mu sync.Mutex
	// known are blobs that are in the repository.
	known map[digest.Digest]bool
}

// Open names a repository, REGISTRY/REPOSITORY. Nothing is asked of the registry yet.
func Open(name string, o Options) (*Cache, error) {
	if first, _, ok := strings.Cut(name, "/"); !ok || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return nil, fmt.Errorf("%q is no repository: give the registry and a path, such as registry.example.org/team/cache", name)
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("%q is no repository: %w", name, err)
	}
	if !reference.IsNameOnly(named) {
		return nil, fmt.Errorf("%q has a tag or a digest: leave it out, each checkpoint has tags of its own", name)
	}
	sys := &types.SystemContext{DockerRegistryUserAgent: "ossify", AuthFilePath: o.AuthFile}
	if o.Insecure {
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	return &Cache{name: named, sys: sys, known: map[digest.Digest]bool{}}, nil
}

// Name is the repository, as Open was given it.
func (c *Cache) Name() string { return c.name.Name() }

// keyLength is how much of a key is in a tag: a tag has at most 128 characters.
const keyLength = 32

func exactTag(id, key string) string { return id + "-" + key[:min(len(key), keyLength)] }

func (c *Cache) reference(tag string) (types.ImageReference, error) {
	tagged, err := reference.WithTag(c.name, tag)
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", tag, c.Name(), err)
	}
	return docker.NewReference(tagged)
}

// has says whether a blob is known to be in the repository; saw notes that it is.
func (c *Cache) has(d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[d]
}

func (c *Cache) saw(d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[d] = true
}

// link is a checkpoint of a config.
type link struct {
	store.Link
	// Record is the side record, compressed with zstd; Same says that it is that of the one before.
	Record []byte `json:"record,omitempty"`
	Same   bool   `json:"same-record,omitempty"`
}

// config is that of an image, and what a store needs besides.
type config struct {
	imgspec.Image
	Checkpoints []link `json:"org.ossify.checkpoints"`
}

// Remote is a checkpoint in a registry.
type Remote struct {
	cache  *Cache
	tag    string
	layers []imgspec.Descriptor
	links  []link
}

// SizeAfter is what its layers but the first n take in the registry, in bytes.
func (r *Remote) SizeAfter(n int) (size int64) {
	for _, l := range r.layers[min(n, len(r.layers)):] {
		size += l.Size
	}
	return size
}

// Find returns the checkpoint of that id and key, nil if there is none. With key "" any of the id is taken.
func (c *Cache) Find(ctx context.Context, id, key string) (*Remote, error) {
	tag := id
	if key != "" {
		tag = exactTag(id, key)
	}
	r, err := c.find(ctx, tag)
	if err != nil {
		return nil, fmt.Errorf("look up checkpoint %s in %s: %w", id, c.Name(), advice(err))
	}
	if r == nil {
		return nil, nil
	}
	top := r.links[len(r.links)-1]
	if top.Name != id || key != "" && top.Key != key {
		return nil, nil // another one with the same beginning
	}
	return r, nil
}

func (c *Cache) find(ctx context.Context, tag string) (_ *Remote, err error) {
	ref, err := c.reference(tag)
	if err != nil {
		return nil, err
	}
	src, err := ref.NewImageSource(ctx, c.sys)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	text, _, err := src.GetManifest(ctx, nil)
	if err != nil {
		return nil, err
	}
	var m imgspec.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("its manifest: %w", err)
	}
	if m.ArtifactType != ArtifactType {
		return nil, nil // somebody else's image
	}
	var conf config
	if err := c.readConfig(ctx, src, m.Config, &conf); err != nil {
		return nil, fmt.Errorf("its config: %w", err)
	}
	r := &Remote{cache: c, tag: tag, layers: m.Layers, links: conf.Checkpoints}
	if len(r.layers) == 0 || len(r.layers) != len(r.links) {
		return nil, fmt.Errorf("its manifest has %d layers, its config %d checkpoints", len(r.layers), len(r.links))
	}
	return r, nil
}

// isNotFound says whether a registry has nothing of that name: the errors of the library for a
// status of 404 differ with what the registry says besides.
func isNotFound(err error) bool {
	if err == nil {
		return false
	}
	var coder errcode.ErrorCoder
	if errors.As(err, &coder) {
		switch coder.ErrorCode() {
		case v2.ErrorCodeManifestUnknown, v2.ErrorCodeNameUnknown:
			return true
		}
	}
	return strings.Contains(err.Error(), "StatusCode: 404") || strings.Contains(strings.ToLower(err.Error()), "manifest unknown")
}

// advice adds what to do.
func advice(err error) error {
	var credentials docker.ErrUnauthorizedForCredentials
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%w; if the registry has no TLS, add --tls-verify=false", err)
	case errors.As(err, &credentials), strings.Contains(err.Error(), "authentication required"), strings.Contains(err.Error(), "unauthorized"):
		return fmt.Errorf("%w; log in with: podman login REGISTRY, or name the file with the credentials with --authfile", err)
	}
	return err
}

// idLength is that of a stage's id.
const idLength = 64

// Complete returns the id of the one checkpoint in the repository whose id begins so.
func (c *Cache) Complete(ctx context.Context, prefix string) (string, error) {
	if len(prefix) == idLength {
		return prefix, nil
	}
	ref, err := docker.NewReference(reference.TagNameOnly(c.name))
	if err != nil {
		return "", err
	}
	tags, err := docker.GetRepositoryTags(ctx, c.sys, ref)
	if err != nil && !isNotFound(err) {
		return "", fmt.Errorf("list checkpoints of %s: %w", c.Name(), advice(err))
	}
	var found []string
	for _, tag := range tags {
		if len(tag) == idLength && strings.HasPrefix(tag, prefix) {
			found = append(found, tag)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s has no checkpoint %s", c.Name(), prefix)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%d checkpoints of %s begin with %s: give more of the id", len(found), c.Name(), prefix)
}
