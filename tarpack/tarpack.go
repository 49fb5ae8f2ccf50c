// Package tarpack packs trees with the build root's tar. It adds what a tree's
// side record has, which tar cannot see: SELinux labels and device nodes.
package tarpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
)

// Archive says what is packed.
type Archive struct {
	// Module is named by errors of missing programs.
	Module string
	// Flags are those of tar for format and metadata; Names are the members, seen
	// from the directory Tree.
	Flags []string
	Tree  string
	Names []string
	// Compressor is the program that compresses, whose name is also its flag of
	// tar; "" for none.
	Compressor string
	// Record is the tree's side record. Its labels are stored under Keywords,
	// see record.TarOptions; with none they are left out.
	Record   record.Record
	Keywords []string
	// Prefix is what the names of members begin with for tar: "./" or "".
	Prefix string
	// Below are the paths of the tree that are packed; nil for all.
	Below []string
}

// LabelKeywords are those that tar's flags --selinux and --xattrs lead to: both if
// both are given.
func LabelKeywords(selinux, xattrs bool) []string {
	var keywords []string
	if selinux {
		keywords = append(keywords, record.TarSELinux)
	}
	if xattrs {
		keywords = append(keywords, record.TarXattr)
	}
	return keywords
}

// Write writes the archive to the file target.
func (a *Archive) Write(ctx context.Context, args *module.Args, target string) error {
	if a.Compressor != "" {
		if _, err := module.LookTool(a.Compressor); err != nil {
			return fmt.Errorf("%s: %w", a.Module, err)
		}
	}
	devices := a.devices()
	if len(devices) > 0 || len(a.Keywords) > 0 && len(a.Record) > 0 {
		return a.complete(ctx, args, target, devices)
	}
	var flags []string
	if a.Compressor != "" {
		flags = append(flags, "--"+a.Compressor)
	}
	cmd, err := a.tar(ctx, args, target, flags...)
	if err != nil {
		return err
	}
	return module.RunTool(cmd, os.Stdout)
}

// tar makes the command that writes the archive to a file, or "-".
func (a *Archive) tar(ctx context.Context, args *module.Args, target string, flags ...string) (*exec.Cmd, error) {
	argv := append(append([]string{}, a.Flags...), flags...)
	argv = append(append(argv, "-cf", target, "-C", a.Tree), a.Names...)
	cmd, err := module.HostCommand(ctx, args, a.Module, "tar", argv...)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(cmd.Env, compressorEnv)
	return cmd, nil
}

// compressorEnv lets every core compress, like osbuild.
const compressorEnv = "XZ_OPT=--threads 0"

// devices are those of the record that are to be in the archive, by member name.
func (a *Archive) devices() map[string]record.Device {
	out := map[string]record.Device{}
	for name, device := range a.Record.Devices(a.Tree) {
		wanted := a.Below == nil
		for _, part := range a.Below {
			wanted = wanted || strings.HasPrefix(name+"/", path.Join("/", part)+"/")
		}
		if wanted {
			out[a.Prefix+strings.TrimPrefix(name, "/")] = device
		}
	}
	return out
}

// complete runs tar, adds to what it writes and compresses that.
func (a *Archive) complete(ctx context.Context, args *module.Args, target string, devices map[string]record.Device) (err error) {
	paths, err := a.paths(ctx, args)
	if err != nil {
		return err
	}
	out, err := os.Create(target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	tar, err := a.tar(ctx, args, "-")
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
	options := record.TarOptions{Keywords: a.Keywords, Devices: devices}
	options.Label = func(n int, name string) string {
		if n >= len(paths) { // a device
			return a.Record[path.Join("/", name)].Label
		}
		return a.Record[paths[n]].Label
	}
	if args.Meta.SourceEpoch != nil {
		options.Epoch = *args.Meta.SourceEpoch
	}
	addErr := record.CompleteTar(sink, archive, options)
	_ = archive.Close() // ends tar if it still writes
	if err := tar.Wait(); err != nil && addErr == nil {
		addErr = fmt.Errorf("run tar: %w", err)
	}
	return errors.Join(addErr, closeSink())
}

// paths returns the place in the tree of each member, which its name need not be.
func (a *Archive) paths(ctx context.Context, args *module.Args) ([]string, error) {
	index, err := os.CreateTemp("", "members-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(index.Name())
	defer index.Close()
	cmd, err := a.tar(ctx, args, "/dev/null", "--verbose", "--quoting-style=c", "--index-file="+index.Name())
	if err != nil {
		return nil, err
	}
	if err := module.RunTool(cmd, os.Stdout); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(index)
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		name, err := strconv.Unquote(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("tar lists a member as %s: %w", line, err)
		}
		out = append(out, path.Join("/", name))
	}
	return out, nil
}

// compressed returns where the archive is to be written.
func (a *Archive) compressed(ctx context.Context, args *module.Args, out *os.File) (io.WriteCloser, func() error, error) {
	if a.Compressor == "" {
		return out, func() error { return nil }, nil
	}
	cmd, err := module.HostCommand(ctx, args, a.Module, a.Compressor)
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
	return sink, func() error {
		if err := errors.Join(sink.Close(), cmd.Wait()); err != nil {
			return fmt.Errorf("run %s: %w", filepath.Base(cmd.Path), err)
		}
		return nil
	}, nil
}
