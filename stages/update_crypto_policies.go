package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/ossify/ossify/module"
)

type updateCryptoPoliciesOptions struct {
	Policy string `json:"policy"`
}

// updateCryptoPolicies has the tree's own program set the cryptographic policy.
// It looks into /proc for what is mounted.
func updateCryptoPolicies(ctx context.Context, args *module.Args, options updateCryptoPoliciesOptions) error {
	if options.Policy == "" {
		return errors.New(`options lack "policy"`)
	}
	const stage, tool = "org.osbuild.update-crypto-policies", "update-crypto-policies"
	if err := runMounted(ctx, args, stage, tool, "--set", options.Policy); err != nil {
		return fmt.Errorf("set cryptographic policy %s: %w", options.Policy, err)
	}
	return nil
}
