package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type resolvConfOptions struct {
	Nameserver []string `json:"nameserver"`
	Search     []string `json:"search"`
}

// resolvConf replaces /etc/resolv.conf. Its first line is osbuild's, so that
// trees are the same.
func resolvConf(_ context.Context, args *module.Args, options resolvConfOptions) error {
	lines := []string{"# This file was created by osbuild"}
	if len(options.Search) > 0 {
		lines = append(lines, "search "+strings.Join(options.Search, " "))
	}
	for _, server := range options.Nameserver {
		lines = append(lines, "nameserver "+server)
	}
	if err := replaceFile(args, "/etc/resolv.conf", strings.Join(lines, "\n")+"\n"); err != nil {
		return fmt.Errorf("set name servers: %w", err)
	}
	return nil
}
