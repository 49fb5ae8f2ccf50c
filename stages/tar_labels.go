package stages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
)

// labelledTar is an archive that gets what is in a side record.
type labelledTar struct {
	argv, names []string
	// target is the archive, tool the program that compresses it, or "".
	target, tool string
	keywords     []string
	labels       record.Record
	// devices are by member name.
	devices map[string]record.Device
}

// labelKeywords are how the options have labels stored: both ways if both are on,
// as tar does.
func labelKeywords(options tarOptions) []string {
	on := func(flag *bool) bool { return flag == nil || *flag }
	var keywords []string
	if on(options.SELinux) {
		keywords = append(keywords, record.TarSELinux)
	}
	if on(options.XAttrs) {
		keywords = append(keywords, record.TarXattr)
	}
	return keywords
}

// deviceMembers are the devices of the record that are to be in the archive.
func deviceMembers(source string, labels record.Record, options tarOptions) (map[string]record.Device, error) {
	prefix := "./"
	if options.RootNode == "omit" || len(options.Paths) > 0 {
		prefix = ""
	}
	out := map[string]record.Device{}
	for name, device := range labels.Devices(source) {
		wanted := len(options.Paths) == 0
		for _, part := range options.Paths {
			wanted = wanted || strings.HasPrefix(name+"/", path.Join("/", part)+"/")
		}
		if wanted {
			out[prefix+strings.TrimPrefix(name, "/")] = device
		}
	}
	if options.Transform != "" && len(out) > 0 {
		return nil, fmt.Errorf("the tree has device nodes in its side record (%s), whose names cannot be transformed: pack them without transform", slices.Sorted(maps.Keys(out))[0])
	}
	return out, nil
}

// packLabelled runs tar, labels what it writes and compresses that.
func packLabelled(ctx context.Context, args *module.Args, a *labelledTar) (err error) {
	paths, err := a.paths(ctx, args)
	if err != nil {
		return err
	}
	out, err := os.Create(a.target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	tar, err := hostCommand(ctx, args, tarStage, "tar", append(append(a.argv, "-cf", "-"), a.names...)...)
	if err != nil {
		return err
	}
	tar.Stderr = os.Stderr
	archive, err := tar.StdoutPipe()
	if err != nil {
		return err
	}
	sink, closeSink, err := a.compressed(ctx, args, out)
	if err != nil {
		return err
	}
	if err := tar.Start(); err != nil {
		return errors.Join(err, closeSink())
	}
	options := record.TarOptions{Keywords: a.keywords, Devices: a.devices}
	options.Label = func(n int, name string) string {
		if n >= len(paths) { // a device
			return a.labels[path.Join("/", name)].Label
		}
		return a.labels[paths[n]].Label
	}
	if args.Meta.SourceEpoch != nil {
		options.Epoch = *args.Meta.SourceEpoch
	}
	labelErr := record.CompleteTar(sink, archive, options)
	_ = archive.Close() // ends tar if it still writes
	if err := tar.Wait(); err != nil && labelErr == nil {
		labelErr = fmt.Errorf("run tar: %w", err)
	}
	return errors.Join(labelErr, closeSink())
}

// paths returns the place in the tree of each member, which its name need not be.
func (a *labelledTar) paths(ctx context.Context, args *module.Args) ([]string, error) {
	index, err := os.CreateTemp("", "members-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(index.Name())
	defer index.Close()
	list := append(append([]string{}, a.argv...), "--verbose", "--quoting-style=c", "--index-file="+index.Name(), "-cf", "/dev/null")
	cmd, err := hostCommand(ctx, args, tarStage, "tar", append(list, a.names...)...)
	if err != nil {
		return nil, err
	}
	if err := run(cmd); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(index)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		name, err := strconv.Unquote(line)
		if err != nil {
			return nil, fmt.Errorf("tar lists a member as %s: %w", line, err)
		}
		out = append(out, path.Join("/", name))
	}
	return out, nil
}

// compressed returns where the archive is to be written.
func (a *labelledTar) compressed(ctx context.Context, args *module.Args, out *os.File) (io.WriteCloser, func() error, error) {
	if a.tool == "" {
		return out, func() error { return nil }, nil
	}
	cmd, err := hostCommand(ctx, args, tarStage, a.tool)
	if err != nil {
		return nil, nil, err
	}
	cmd.Env = append(cmd.Env, compressorEnv)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	sink, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return sink, func() error { return errors.Join(sink.Close(), wait(cmd)) }, nil
}

func wait(cmd *exec.Cmd) error {
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("run %s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}
