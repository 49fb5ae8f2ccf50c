package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/registry"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
)

// registryOptions say how registries are reached.
type registryOptions struct {
	verifyTLS bool
	authFile  string
}

func (o *registryOptions) addFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.verifyTLS, "tls-verify", true, "registries need TLS, and a certificate that is known")
	cmd.Flags().StringVar(&o.authFile, "authfile", "", "file with the credentials for registries (default: those of podman login and docker login)")
}

func (o *registryOptions) open(name string) (*registry.Cache, error) {
	c, err := registry.Open(name, registry.Options{Insecure: !o.verifyTLS, AuthFile: o.authFile})
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// cacheOptions are the registries of a build.
type cacheOptions struct {
	registryOptions
	from, to []string
	match    string
}

func (o *cacheOptions) addFlags(cmd *cobra.Command) {
	o.addFrom(cmd)
	cmd.Flags().StringArrayVar(&o.to, "cache-to", nil, "REGISTRY/REPOSITORY that gets the checkpoints of the build (can be given several times)")
}

// addFrom adds what decides which checkpoints come from registries.
func (o *cacheOptions) addFrom(cmd *cobra.Command) {
	o.registryOptions.addFlags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&o.from, "cache-from", nil, "REGISTRY/REPOSITORY that is asked for checkpoints before a stage runs (can be given several times)")
	f.StringVar(&o.match, "cache-match", "key", "which checkpoints of a registry are taken: key, made by the same modules on the same build root; or id, of the same stage id, as osbuild does it")
}

// maxNote is how large a manifest may be to be in the annotations of checkpoints, in bytes.
const maxNote = 128 << 10

// open checks the options. manifest is noted with what --cache-to gets.
func (o *cacheOptions) open(manifest []byte) (remote pipeline.RemoteCache, err error) {
	switch o.match {
	case "key":
	case "id":
		remote.ByID = true
	default:
		return remote, usageError{fmt.Errorf("--cache-match %q: it is key or id", o.match)}
	}
	for _, name := range o.from {
		c, err := o.registryOptions.open(name)
		if err != nil {
			return remote, err
		}
		remote.From = append(remote.From, c)
	}
	for _, name := range o.to {
		c, err := o.registryOptions.open(name)
		if err != nil {
			return remote, err
		}
		remote.To = append(remote.To, c)
	}
	remote.Notes = map[string]string{"org.ossify.manifest.digest": digest.FromBytes(manifest).String()}
	if len(manifest) <= maxNote && json.Valid(manifest) {
		remote.Notes["org.ossify.manifest"] = string(manifest)
	}
	return remote, nil
}

// tellTransfers says what was moved.
func tellTransfers(transfers []pipeline.Transfer) {
	for _, t := range transfers {
		what := fmt.Sprintf("pulled %d checkpoints from", t.Checkpoints)
		if t.Pushed {
			what = fmt.Sprintf("pushed %d checkpoints to", t.Checkpoints)
		}
		fmt.Printf("%s %s: %s, %s unpacked; %s\n", what, t.Cache, monitor.Bytes(t.Bytes), monitor.Bytes(t.Unpacked), monitor.Seconds(t.Duration))
	}
}

func storePush() *cobra.Command {
	var o storeOptions
	var r registryOptions
	cmd := &cobra.Command{
		Use:   "push REGISTRY/REPOSITORY ID...",
		Short: "Bring checkpoints into a registry",
		Long: `Brings checkpoints into a repository of an OCI registry, with those that they are based on, as layers
that are compressed with zstd. What is there already is not moved. Each checkpoint is an image there, whose
tag is its id. Credentials are those of podman login.`,
		Args: arguments(2, -1, "a repository and at least one checkpoint are"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeIDs(&o, -1)(cmd, args, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cache, err := r.open(args[0])
			if err != nil {
				return err
			}
			return withStore(&o, func(s *store.Store) error { return pushAll(cmd.Context(), s, cache, args[1:]) })
		},
	}
	o.addStore(cmd)
	r.addFlags(cmd)
	return cmd
}

func pushAll(ctx context.Context, s *store.Store, cache *registry.Cache, ids []string) error {
	list, err := s.Checkpoints()
	if err != nil {
		return err
	}
	for _, id := range ids {
		c, err := findCheckpoint(list, id)
		if err != nil {
			return err
		}
		if c.Failed || c.Prepared {
			return fmt.Errorf("%s is no checkpoint of a stage", id)
		}
		layer, err := s.Layer(c.Layer)
		if err != nil {
			return err
		}
		moved, err := cache.Push(ctx, s, layer, nil)
		if err != nil {
			return err
		}
		tellMoved(c.ID, moved)
	}
	return nil
}

func tellMoved(id string, moved *registry.Moved) {
	fmt.Printf("%s: %d layers, %s, %s unpacked\n", id, moved.Layers, monitor.Bytes(moved.Bytes), monitor.Bytes(moved.Unpacked))
}

func storePull() *cobra.Command {
	var o storeOptions
	var r registryOptions
	cmd := &cobra.Command{
		Use:   "pull REGISTRY/REPOSITORY ID...",
		Short: "Bring checkpoints of a registry into the store",
		Long: `Brings checkpoints of a repository into the store, with those that they are based on, but for what
the store has already. A build uses them if its modules and build root are those that made them.`,
		Args: arguments(2, -1, "a repository and at least one checkpoint are"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cache, err := r.open(args[0])
			if err != nil {
				return err
			}
			if err := sandbox.EnterNamespace(); err != nil {
				return err
			}
			return o.openStore(func(s *store.Store) error { return pullAll(cmd.Context(), s, cache, args[1:]) })
		},
	}
	o.addStore(cmd)
	r.addFlags(cmd)
	return cmd
}

func pullAll(ctx context.Context, s *store.Store, cache *registry.Cache, ids []string) error {
	for _, prefix := range ids {
		if strings.Trim(prefix, "0123456789abcdef") != "" || prefix == "" {
			return usageError{fmt.Errorf("%q is not the id of a stage", prefix)}
		}
		id, err := cache.Complete(ctx, prefix)
		if err != nil {
			return err
		}
		found, err := cache.Find(ctx, id, "")
		if err != nil {
			return err
		}
		if found == nil {
			return fmt.Errorf("%s has no checkpoint %s", cache.Name(), prefix)
		}
		_, moved, err := found.Pull(ctx, s, nil, func(int64) {})
		if errors.Is(err, context.Canceled) {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		tellMoved(id, moved)
	}
	return nil
}
