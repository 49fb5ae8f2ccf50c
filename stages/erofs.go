package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pyjson"
	"github.com/ossify/ossify/record"
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
	source, labels, err := imageSource(args, options.Source)
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
	if len(labels) > 0 {
		file, err := erofsContexts(source, labels)
		if err != nil {
			return fmt.Errorf("make %q: %w", options.Filename, err)
		}
		defer os.Remove(file)
		argv = append(argv, "--file-contexts="+file)
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

// erofsContexts writes a temporary file in the form of file_contexts(5) that gives
// each file of the source its label, which is the one way to tell mkfs.erofs.
func erofsContexts(source string, labels record.Record) (string, error) {
	if devices := labels.Devices(source); len(devices) > 0 {
		return "", fmt.Errorf("the tree has device nodes in its side record (%s), which mkfs.erofs cannot make: use org.osbuild.squashfs, or remove them", slices.Sorted(maps.Keys(devices))[0])
	}
	var text strings.Builder
	// of is what the lines so far say of a directory and all below it.
	of := map[string]string{}
	err := filepath.WalkDir(source, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(source, file)
		if err != nil {
			return err
		}
		name := path.Join("/", below)
		label := labels[name].Label
		if said, ok := of[path.Dir(name)]; !ok || said != label || name == "/" {
			pattern := contextPattern(name)
			switch {
			case name == "/":
				pattern = "/.*"
			case entry.IsDir():
				pattern += "(/.*)?"
			}
			context := label
			if label == "" {
				context = "<<none>>"
			}
			fmt.Fprintf(&text, "%s %s\n", pattern, context)
		}
		if entry.IsDir() {
			of[name] = label
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp("", "contexts-")
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text.String())
	if err := errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

var whiteSpace = regexp.MustCompile(`\s`)

// contextPattern is a regular expression for a path without white space in it,
// which would end it.
func contextPattern(name string) string {
	return whiteSpace.ReplaceAllString(regexp.QuoteMeta(name), "[[:space:]]")
}
