package stages

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
)

const untarStage = "org.osbuild.untar"

type untarOptions struct {
	Prefix string `json:"prefix"`
}

// untar unpacks the only file of the input "file" below prefix, which must
// exist. tar runs as root and so keeps owners and modes.
func untar(ctx context.Context, args *module.Args, options untarOptions) error {
	input := args.Inputs["file"]
	if len(input.Data.Files) != 1 {
		return fmt.Errorf("input \"file\" must have one file, not %d", len(input.Data.Files))
	}
	var source string
	for name := range input.Data.Files {
		source = filepath.Join(input.Path, name)
	}
	target, err := treeTarget(args, options.Prefix)
	if err != nil {
		return err
	}
	if info, err := os.Stat(target); err != nil || !info.IsDir() {
		return fmt.Errorf("unpack to prefix %q: it is not a directory of the tree", options.Prefix)
	}
	tool, err := decompressor(source)
	if err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	if tool != "" {
		if _, err := module.LookTool(tool); err != nil {
			return fmt.Errorf("%s: %w", untarStage, err)
		}
	}
	cmd, err := hostCommand(ctx, args, untarStage, "tar", "--auto-compress", "-x", "-f", source, "-C", target)
	if err != nil {
		return err
	}
	// Only root of the machine makes device nodes. Whether there are some is known
	// after all of the archive was read, so that is asked when it failed.
	runErr := run(cmd)
	if runErr == nil {
		return nil
	}
	devices, err := archivedDevices(ctx, args, source, tool)
	if err != nil || len(devices) == 0 {
		return fmt.Errorf("unpack: %w", runErr)
	}
	fmt.Printf("%d device nodes of the archive go to the side record; unpacking without them\n", len(devices))
	return untarWithout(ctx, args, source, target, devices)
}

// untarWithout unpacks an archive without its devices, which it records.
func untarWithout(ctx context.Context, args *module.Args, source, target string, devices map[string]record.Device) error {
	list, err := os.CreateTemp("", "devices-")
	if err != nil {
		return err
	}
	defer os.Remove(list.Name())
	defer list.Close()
	for name := range devices {
		if strings.Contains(name, "\n") {
			return fmt.Errorf("unpack: the device %q has a line end in its name", name)
		}
		fmt.Fprintln(list, name)
	}
	cmd, err := hostCommand(ctx, args, untarStage, "tar", "--auto-compress", "-x", "-f", source, "-C", target,
		"--anchored", "--no-wildcards", "--exclude-from", list.Name())
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	r, err := record.Open(args.Record)
	if err != nil {
		return err
	}
	below, err := filepath.Rel(args.Tree, target)
	if err != nil {
		return err
	}
	for name, device := range devices {
		r.SetDevice(path.Join("/", below, path.Join("/", name)), device)
	}
	return module.SetRecord(r)
}

// archivedDevices returns the device nodes of an archive by member name.
func archivedDevices(ctx context.Context, args *module.Args, source, tool string) (_ map[string]record.Device, err error) {
	file, err := os.Open(source)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var data io.Reader = file
	if tool != "" {
		cmd, err := hostCommand(ctx, args, untarStage, tool, "-dc")
		if err != nil {
			return nil, err
		}
		cmd.Stdin = file
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		// It waits for somebody to read until the pipe is closed.
		defer func() { _ = errors.Join(pipe.Close(), cmd.Wait()) }()
		data = pipe
	}
	out := map[string]record.Device{}
	for archive := tar.NewReader(data); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		d := record.Device{Kind: 'c', Major: uint32(h.Devmajor), Minor: uint32(h.Devminor), Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid)}
		switch h.Typeflag {
		case tar.TypeBlock:
			d.Kind = 'b'
			fallthrough
		case tar.TypeChar:
			out[h.Name] = d
		default:
			delete(out, h.Name) // a later member replaces it
		}
	}
}

// decompressor returns the program that tar will call for the file, by its
// first bytes, or "".
func decompressor(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	head := make([]byte, 6)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	for _, known := range []struct{ magic, tool string }{
		{"\x1f\x8b", "gzip"},
		{"\xfd7zXZ\x00", "xz"},
		{"\x28\xb5\x2f\xfd", "zstd"},
		{"BZh", "bzip2"},
		{"LZIP", "lzip"},
		{"\x89LZO", "lzop"},
	} {
		if bytes.HasPrefix(head[:n], []byte(known.magic)) {
			return known.tool, nil
		}
	}
	return "", nil
}
