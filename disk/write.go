package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ossify/ossify/record"
	"golang.org/x/sync/errgroup"
)

// Spec says what Write writes.
type Spec struct {
	// Tree is the directory with the system; it is only read.
	Tree string
	// Record is the tree's side record: SELinux labels and inode flags, which
	// ext4 gets. FAT cannot hold them; other filesystems are refused.
	Record record.Record
	// Output is the image; it must not exist. Scratch files lie in a
	// directory beside it while Write runs. Some vmdk subformats put more
	// files beside it.
	Output     string
	Layout     Layout
	Bootloader *Bootloader // or nil
	Format     Format
	// Epoch is the time, in seconds since 1970, at which the filesystems
	// are said to have been made; nil means that of the newest file.
	Epoch *int64
	// Writer is Offline, Mounted or Auto.
	Writer string
	// Log gets the output of the programs that are run; nil means none.
	Log io.Writer
}

// Write writes the tree as a disk image. What cannot be done is refused before
// anything is written, except a filesystem that turns out to be too small.
// After an error nothing is left behind.
func Write(ctx context.Context, spec Spec) (err error) {
	layout, err := spec.Layout.Resolve()
	if err != nil {
		return fmt.Errorf("disk layout: %w", err)
	}
	if err := errors.Join(spec.Format.check(), spec.Bootloader.check(&layout)); err != nil {
		return err
	}
	tree, err := filepath.EvalSymlinks(spec.Tree)
	if err != nil {
		return err
	}
	all, err := scan(ctx, tree, &layout)
	if err != nil {
		return err
	}
	for _, c := range all.parts {
		if err := c.take(spec.Record, spec.Writer); err != nil {
			return err
		}
		if c.part.Filesystem.Type != "xfs" { // which may compress nothing, but clones
			if err := c.fits(); err != nil {
				return err
			}
		}
	}
	if _, err := os.Lstat(spec.Output); err == nil {
		return fmt.Errorf("%s exists: choose another filename", spec.Output)
	}
	b := &builder{tool: tool{log: spec.Log, epoch: all.newest}, layout: &layout, spec: &spec}
	if b.log == nil {
		b.log = io.Discard
	}
	if spec.Epoch != nil {
		b.epoch = *spec.Epoch
	}
	// To e2fsprogs 0 means "now".
	b.epoch = max(b.epoch, 1)

	if b.scratch, err = os.MkdirTemp(filepath.Dir(spec.Output), ".ossify-disk-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.scratch)) }()
	defer func() {
		if err != nil {
			_ = os.Remove(spec.Output)
		}
	}()
	return b.build(ctx, all)
}

// builder is one run of Write.
type builder struct {
	tool
	layout  *Layout
	spec    *Spec
	scratch string
}

func (b *builder) build(ctx context.Context, all *contents) (err error) {
	raw, err := os.OpenFile(filepath.Join(b.scratch, "disk.raw"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := raw.Close(); !errors.Is(closeErr, os.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}()
	if err := raw.Truncate(b.layout.Size); err != nil {
		return fmt.Errorf("make an image of %d bytes: %w", b.layout.Size, err)
	}
	m := &image{raw: raw, size: b.layout.Size}
	defer func() {
		for _, p := range m.pieces {
			err = errors.Join(err, p.file.Close())
		}
	}()
	if err := b.fill(ctx, m, all); err != nil {
		return err
	}
	// After the filesystems, whose makers discard what was there.
	if b.layout.TableType != None {
		if err := writeTable(raw, b.layout); err != nil {
			return err
		}
	}
	if b.spec.Bootloader.has(GrubBIOS) {
		if err := embed(raw, b.layout, filepath.Join(b.scratch, GrubBIOS+".img")); err != nil {
			return fmt.Errorf("install grub for %s: %w", GrubBIOS, err)
		}
	}
	return m.store(ctx, &b.tool, &b.spec.Format, b.layout.UUID, b.spec.Output)
}

// fill makes the filesystems and the images of the boot loader, side by side.
func (b *builder) fill(ctx context.Context, m *image, all *contents) error {
	group, ctx := errgroup.WithContext(ctx)
	if b.spec.Bootloader.has(GrubBIOS) {
		group.Go(func() error {
			_, err := b.mkimage(ctx, b.layout, b.spec.Bootloader, GrubBIOS, b.scratch)
			return err
		})
	}
	for i := range b.layout.Partitions {
		if p := &b.layout.Partitions[i]; p.Filesystem != nil && p.Filesystem.Type == "swap" {
			group.Go(func() error { return writeSwap(m.raw, p) })
		}
	}
	pieces := make([]piece, len(all.parts))
	for i, c := range all.parts {
		group.Go(func() (err error) {
			pieces[i], err = b.filesystem(ctx, m.raw, c)
			if err != nil {
				return fmt.Errorf("make filesystem for %s: %w", c.part.Filesystem.Mountpoint, err)
			}
			return nil
		})
	}
	err := group.Wait()
	for _, p := range pieces {
		if p.file != nil {
			m.pieces = append(m.pieces, p)
		}
	}
	return err
}

// filesystem makes one filesystem, in the raw image or as a piece.
func (b *builder) filesystem(ctx context.Context, raw *os.File, c *content) (piece, error) {
	scratch, err := os.MkdirTemp(b.scratch, "fs-")
	if err != nil {
		return piece{}, err
	}
	slices.Sort(c.covered)
	slices.Sort(c.created)
	name := filepath.Join(scratch, "filesystem")
	kind := c.part.Filesystem.Type
	if b.spec.Writer == Mounted && kind != "vfat" {
		kind = Mounted
	}
	switch kind {
	case Mounted:
		err = b.writeMounted(ctx, name, c, scratch)
	case "ext4":
		return piece{}, b.writeExt4(ctx, raw, c, scratch)
	case "xfs":
		err = b.writeXFS(ctx, name, c, scratch)
		if errors.As(err, new(*oldXFS)) && b.spec.Writer == Auto {
			err = b.writeMounted(ctx, name, c, scratch)
		}
	case "btrfs":
		err = b.writeBtrfs(ctx, name, c, scratch)
	case "vfat":
		extra := map[string]string{}
		if b.spec.Bootloader.has(GrubUEFI) && c.part == b.layout.esp() {
			loader, err := b.mkimage(ctx, b.layout, b.spec.Bootloader, GrubUEFI, scratch)
			if err != nil {
				return piece{}, err
			}
			named := filepath.Join(scratch, filepath.Base(uefiDefault))
			if err := os.Rename(loader, named); err != nil {
				return piece{}, err
			}
			extra[uefiDefault] = named
		}
		err = b.writeVFAT(ctx, name, c, extra)
	default:
		err = fmt.Errorf("internal error: no writer for %s", c.part.Filesystem.Type)
	}
	if err != nil {
		return piece{}, err
	}
	f, err := os.Open(name)
	if err != nil {
		return piece{}, err
	}
	return piece{file: f, offset: c.part.startBytes(), length: c.part.sizeBytes()}, nil
}

// setTime sets a file's times, in seconds since 1970.
func setTime(name string, epoch int64) error {
	at := time.Unix(epoch, 0)
	return os.Chtimes(name, at, at)
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
