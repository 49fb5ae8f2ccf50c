package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pyjson"
)

type erofsOptions struct {
	Filename     string   `json:"filename"`
	Source       string   `json:"source"`
	ExcludePaths []string `json:"exclude_paths"`
	Compression  *struct {
		Method string      `json:"method"`
		Level  json.Number `json:"level"`
	} `json:"compression"`
	ClusterSize json.Number `json:"cluster-size"`
	Options     []string    `json:"options"`
}

// erofs makes an EROFS of the input "tree" or of another source.
func erofs(ctx context.Context, args *module.Args, options erofsOptions) error {
	if options.Filename == "" {
		return errors.New(`options lack "filename"`)
	}
	source, err := imageSource(args, options.Source)
	if err != nil {
		return err
	}
	target, err := treeTarget(args, options.Filename)
	if err != nil {
		return err
	}
	// Without -U the UUID would be another one each time.
	argv := []string{target, source, "--quiet", "-U", derivedUUID(args, "filesystem").String()}
	if c := options.Compression; c != nil {
		method := c.Method
		if level := setNumber(c.Level); level != "" {
			method += "," + level
		}
		argv = append(argv, "-z", method)
	}
	if len(options.Options) > 0 {
		argv = append(argv, "-E", strings.Join(options.Options, ","))
	}
	if size := setNumber(options.ClusterSize); size != "" {
		argv = append(argv, "-C", size)
	}
	for _, path := range options.ExcludePaths {
		argv = append(argv, "--exclude-regex", path)
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.erofs", "mkfs.erofs", argv...)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return fmt.Errorf("make %q: %w", options.Filename, err)
	}
	return nil
}

// setNumber spells a number as Python does; 0 counts as not set.
func setNumber(n json.Number) string {
	if value, err := n.Float64(); n == "" || err == nil && value == 0 {
		return ""
	}
	return string(pyjson.Dumps(n, false))
}
