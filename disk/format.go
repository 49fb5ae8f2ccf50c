package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"

	"github.com/ossify/ossify/qcow2"
	"github.com/ossify/ossify/sparse"
	"golang.org/x/sync/errgroup"
)

// Format is how the disk is stored in a file.
type Format struct {
	// Name is "raw", "raw.xz", "qcow2", "vmdk", "vdi", "vpc" or "vhdx".
	Name string
	// Compression of qcow2.
	Compression qcow2.Compression
	// Compat is the version of qcow2 as qemu-img names it: "1.1" or "v3"
	// (also if empty), "0.10" or "v2" (zlib or none, made by qemu-img).
	Compat string
	// Subformat of vmdk as qemu-img names it; empty means streamOptimized.
	Subformat string
}

const defaultSubformat = "streamOptimized"

var vmdkSubformats = []string{"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", defaultSubformat}

func (f *Format) check() error {
	switch f.Name {
	case "raw", "raw.xz", "qcow2", "vmdk", "vdi", "vpc", "vhdx":
	default:
		return fmt.Errorf("unknown image format %q: want raw, raw.xz, qcow2, vmdk, vdi, vpc or vhdx", f.Name)
	}
	if f.Name != "qcow2" && (f.Compression != qcow2.None || f.Compat != "") {
		return fmt.Errorf("compression and compatibility version are options of qcow2, not of %s: leave them out", f.Name)
	}
	if f.Name != "vmdk" && f.Subformat != "" {
		return fmt.Errorf("subformat %s is an option of vmdk, not of %s: leave it out", f.Subformat, f.Name)
	}
	if f.Name == "vmdk" && f.Subformat != "" && !slices.Contains(vmdkSubformats, f.Subformat) {
		return fmt.Errorf("unknown vmdk subformat %q: want one of %v", f.Subformat, vmdkSubformats)
	}
	if f.oldQcow2() && f.Compression == qcow2.Zstd {
		return fmt.Errorf("qcow2 of version %s cannot be compressed with zstd: use zlib or version 1.1", f.Compat)
	}
	if !slices.Contains([]string{"", "0.10", "v2", "1.1", "v3"}, f.Compat) {
		return fmt.Errorf("unknown qcow2 version %q: want 0.10 (v2) or 1.1 (v3)", f.Compat)
	}
	return nil
}

func (f *Format) oldQcow2() bool { return f.Compat == "0.10" || f.Compat == "v2" }

// piece is a filesystem in a file of its own that belongs at an offset of the
// raw image.
type piece struct {
	file   *os.File
	offset int64
	length int64
}

// image is a finished disk in pieces: the raw image, whose size is the disk's,
// and what lies over it.
type image struct {
	raw    *os.File
	size   int64
	pieces []piece
}

// remove removes the raw image, which is of no more use.
func (m *image) remove() error {
	return errors.Join(os.Remove(m.raw.Name()), m.raw.Close())
}

// store writes the image to output, which does not exist yet.
func (m *image) store(ctx context.Context, t *tool, f *Format, id, output string) error {
	if f.Name == "qcow2" && !f.oldQcow2() {
		return m.storeQcow2(ctx, f, output)
	}
	for _, p := range m.pieces {
		if err := copySparse(ctx, m.raw, p); err != nil {
			return fmt.Errorf("put filesystem at %d into the raw image: %w", p.offset, err)
		}
	}
	switch f.Name {
	case "raw":
		return os.Rename(m.raw.Name(), output)
	case "raw.xz":
		return t.xz(ctx, m.raw.Name(), output)
	}
	return t.convert(ctx, f, id, m.raw.Name(), output)
}

func (m *image) storeQcow2(ctx context.Context, f *Format, output string) (err error) {
	dst, err := os.OpenFile(output, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	// Closing starts to write what was truncated before (ext4), removing
	// gives memory back: each takes its time, so they go side by side.
	defer func() {
		var group errgroup.Group
		group.Go(dst.Close)
		group.Go(m.remove)
		err = errors.Join(err, group.Wait())
	}()
	// The raw image fills what the pieces leave.
	pieces := slices.Clone(m.pieces)
	slices.SortFunc(pieces, func(a, b piece) int { return int(a.offset - b.offset) })
	var segments []qcow2.Segment
	at := int64(0)
	for _, p := range append(pieces, piece{offset: m.size}) {
		if p.offset > at {
			segments = append(segments, qcow2.Segment{Offset: at, File: m.raw, FileOffset: at, Length: p.offset - at})
		}
		if p.length > 0 {
			segments = append(segments, qcow2.Segment{Offset: p.offset, File: p.file, Length: p.length})
		}
		at = p.offset + p.length
	}
	return qcow2.Write(ctx, dst, m.size, segments, qcow2.Options{Compression: f.Compression})
}

// copySparse copies what a piece has of data to its place.
func copySparse(ctx context.Context, dst *os.File, p piece) error {
	for at := int64(0); at < p.length; {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, to, err := sparse.Data(p.file, at, p.length)
		if err != nil {
			return err
		}
		if from < 0 { // only holes follow
			return nil
		}
		section := io.NewSectionReader(p.file, from, to-from)
		if _, err := io.Copy(io.NewOffsetWriter(dst, p.offset+from), section); err != nil {
			return err
		}
		at = to
	}
	return nil
}

func (t *tool) xz(ctx context.Context, raw, output string) (err error) {
	dst, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	// One thread writes another kind of blocks than several do, so there
	// are always several.
	threads := fmt.Sprintf("--threads=%d", max(2, runtime.NumCPU()))
	return t.run(ctx, nil, dst, "xz", "--keep", "--stdout", "-0", threads, raw)
}

// convert lets qemu-img make the formats that only few need.
func (t *tool) convert(ctx context.Context, f *Format, id, raw, output string) error {
	args := []string{"convert", "-f", "raw", "-O", f.Name}
	switch f.Name {
	case "qcow2":
		if f.Compression == qcow2.Zlib {
			args = append(args, "-c")
		}
		args = append(args, "-o", "compat="+f.Compat)
	case "vmdk":
		subformat := f.Subformat
		if subformat == "" {
			subformat = defaultSubformat
		}
		args = append(args, "-o", "subformat="+subformat)
	case "vpc":
		// Without force_size qemu rounds the disk to whole cylinders.
		args = append(args, "-o", "subformat=fixed,force_size")
	}
	if err := t.run(ctx, nil, nil, "qemu-img", append(args, raw, output)...); err != nil {
		return err
	}
	if err := identify(f.Name, output, id, t.epoch); err != nil {
		return fmt.Errorf("make the ids of %s reproducible: %w", output, err)
	}
	return nil
}
