package sources

import (
	"encoding/json"
	"errors"
	"fmt"

	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/configfile"
)

// policy is containers-policy.json(5), which says what images this host takes.
type policy struct {
	Default []policyRequirement `json:"default"`
	// Transports has requirements by transport and scope; the scope "" is
	// for the rest of a transport.
	Transports map[string]map[string][]policyRequirement `json:"transports"`
}

type policyRequirement struct {
	Type string `json:"type"`
}

// checkPolicy refuses images that the host's policy refuses, and those that have
// to be signed: signatures are not checked here. Without a policy every image is
// taken, as the manifest says by checksum what is in it.
func checkPolicy(ref types.ImageReference) error {
	files := configfile.File{
		Name: "policy", Extension: "json", DoNotLoadDropInFiles: true, EnvironmentName: "CONTAINERS_POLICY_JSON",
	}
	for file, err := range configfile.Read(&files) {
		if err != nil {
			return fmt.Errorf("read the host's policy for images: %w", err)
		}
		var p policy
		if err := json.NewDecoder(file.Reader).Decode(&p); err != nil {
			return fmt.Errorf("read the host's policy for images: %s: %w", file.Name, err)
		}
		if err := p.check(ref); err != nil {
			return fmt.Errorf("the host's policy for images (%s) %w", file.Name, err)
		}
	}
	return nil
}

// check applies the requirements of the narrowest scope that the policy has for
// the image.
func (p *policy) check(ref types.ImageReference) error {
	requirements := p.Default
	scopes := append([]string{ref.PolicyConfigurationIdentity()}, ref.PolicyConfigurationNamespaces()...)
	for _, scope := range append(scopes, "") {
		if found, ok := p.Transports[ref.Transport().Name()][scope]; ok {
			requirements = found
			break
		}
	}
	if len(requirements) == 0 {
		return errors.New("has no requirement for it, which refuses it")
	}
	for _, r := range requirements {
		switch r.Type {
		case "insecureAcceptAnything":
		case "reject":
			return errors.New("refuses it")
		default:
			return fmt.Errorf("wants it to be signed (%s), and signatures are not checked here: use osbuild's own source, which lets skopeo do that, with --libdir /usr/lib/osbuild", r.Type)
		}
	}
	return nil
}
