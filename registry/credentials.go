package registry

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"

	"github.com/distribution/reference"
	dockerconfig "go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"
)

// Credentials returns a file as containers-auth.json(5) has it with what this user has for
// the registries of the images, mirrors included, and for no others; and the registries'
// names. What is no name of an image is left out.
func Credentials(images []string) (file []byte, hosts []string, err error) {
	type credential struct {
		Auth          string `json:"auth,omitempty"`
		IdentityToken string `json:"identitytoken,omitempty"`
	}
	auths := map[string]credential{}
	seen := map[string]bool{}
	sys := &types.SystemContext{AuthFilePath: os.Getenv("REGISTRY_AUTH_FILE")}
	for _, name := range images {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue
		}
		refs, err := pullSources(sys, reference.TagNameOnly(named))
		if err != nil {
			return nil, nil, fmt.Errorf("find the registry of %s: %w", name, err)
		}
		for _, ref := range refs {
			if host := reference.Domain(ref); !seen[host] {
				seen[host] = true
				hosts = append(hosts, host)
			}
			found, err := dockerconfig.GetCredentialsForRef(sys, ref)
			if err != nil {
				return nil, nil, fmt.Errorf("find the credentials for %s: %w", ref.Name(), err)
			}
			c := credential{IdentityToken: found.IdentityToken}
			if found.Username != "" || found.Password != "" {
				c.Auth = base64.StdEncoding.EncodeToString([]byte(found.Username + ":" + found.Password))
			}
			if c != (credential{}) {
				auths[ref.Name()] = c
			}
		}
	}
	file, err = json.Marshal(map[string]any{"auths": auths})
	return file, hosts, err
}

// pullSources are where an image is looked for (containers-registries.conf(5)).
func pullSources(sys *types.SystemContext, ref reference.Named) ([]reference.Named, error) {
	refs := []reference.Named{ref}
	found, err := sysregistriesv2.FindRegistry(sys, ref.Name())
	if err != nil || found == nil {
		return refs, err
	}
	sources, err := found.PullSourcesFromReference(ref)
	for _, s := range sources {
		refs = append(refs, s.Reference)
	}
	return refs, err
}
