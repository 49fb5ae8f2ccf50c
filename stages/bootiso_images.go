package stages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ossify/ossify/disk"
	"github.com/ossify/ossify/fat"
	"github.com/ossify/ossify/record"
	"golang.org/x/sys/unix"
)

// efiBlock is the size of a block that the estimate of the FAT's size rounds to.
const efiBlock = 2048

// writeEFIImage writes /images/efiboot.img, a FAT with EFI/BOOT.
func (b *bootiso) writeEFIImage(ctx context.Context) (err error) {
	source, err := treeTarget(b.args, isoESP)
	if err != nil {
		return err
	}
	size, err := efiImageSize(source)
	if err != nil {
		return err
	}
	image, err := treeTarget(b.args, "/images/efiboot.img")
	if err != nil {
		return err
	}
	if err := makeSparse(image, size); err != nil {
		return err
	}
	cmd, err := hostCommand(ctx, b.args, bootisoStage, "mkfs.fat", "-n", "ANACONDA", image)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return err
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return b.fillFAT(f, source)
}

// efiImageSize estimates the size of an image of the directory.
func efiImageSize(dir string) (int64, error) {
	size := int64(efiBlock * 256)
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		size += max((info.Size()+efiBlock-1)/efiBlock, 1) * efiBlock
		return nil
	})
	return size, err
}

// fillFAT copies the directory to EFI/BOOT of the filesystem in image.
func (b *bootiso) fillFAT(image *os.File, source string) error {
	filesystem, err := fat.Open(image)
	if err != nil {
		return err
	}
	root := filepath.Join(b.work, "efiboot")
	boot := filepath.Join(root, isoESP)
	if err := os.MkdirAll(boot, 0o755); err != nil {
		return err
	}
	if err := os.CopyFS(boot, os.DirFS(source)); err != nil {
		return err
	}
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		from := filepath.Join(source, strings.TrimPrefix(path, boot))
		if !strings.HasPrefix(path, boot) {
			from = source
		}
		info, err := os.Stat(from)
		if err != nil {
			return err
		}
		when := b.clamp(info.ModTime())
		return os.Chtimes(path, when, when)
	})
	if err != nil {
		return err
	}
	return filesystem.Refill(root)
}

// clamp is no later than the source-epoch, if there is one.
func (b *bootiso) clamp(when time.Time) time.Time {
	if epoch := b.args.Meta.SourceEpoch; epoch != nil && when.Unix() > *epoch {
		when = time.Unix(*epoch, 0)
	}
	return when
}

// writeInstallImage writes /images/install.img, a squashfs with the root
// filesystem.
func (b *bootiso) writeInstallImage(ctx context.Context) error {
	live := filepath.Join(b.work, "liveos")
	if err := os.MkdirAll(filepath.Join(live, "LiveOS"), 0o755); err != nil {
		return err
	}
	if err := b.writeRootfs(ctx, filepath.Join(live, "LiveOS/rootfs.img")); err != nil {
		return fmt.Errorf("write the root filesystem: %w", err)
	}
	target, err := treeTarget(b.args, "/images/install.img")
	if err != nil {
		return err
	}
	argv := []string{live, target}
	if c := b.options.Rootfs.Compression; c != nil {
		argv = append(argv, "-comp", c.Method)
		if c.Options.BCJ != "" {
			argv = append(argv, "-Xbcj", c.Options.BCJ)
		}
	}
	cmd, err := hostCommand(ctx, b.args, bootisoStage, "mksquashfs", argv...)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return fmt.Errorf("write images/install.img: %w", err)
	}
	return nil
}

// writeRootfs writes an ext4 with all of the input "rootfs".
func (b *bootiso) writeRootfs(ctx context.Context, image string) error {
	size := int64(3072)
	if b.options.Rootfs.Size != nil {
		size = *b.options.Rootfs.Size
	}
	if err := makeSparse(image, size<<20); err != nil {
		return err
	}
	cmd, err := hostCommand(ctx, b.args, bootisoStage, "mkfs.ext4", "-L", "Anaconda", "-b", "4096", "-m", "0", "-d", b.rootfs, image)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return fmt.Errorf("%w; if the input does not fit into %d MiB, raise rootfs.size", err, size)
	}
	labels, err := record.Open(b.args.Inputs["rootfs"].Record)
	if err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Stat(b.rootfs, &stat); err != nil {
		return &os.PathError{Op: "stat", Path: b.rootfs, Err: err}
	}
	if err := disk.ApplyRecord(ctx, os.Stdout, image, b.rootfs, labels, stat.Mtim.Sec, b.work); err != nil {
		return err
	}
	return b.setRootDir(ctx, image, &stat)
}

// setRootDir gives the filesystem's root the mode, owner and time of the
// input's, which mkfs.ext4 does not.
func (b *bootiso) setRootDir(ctx context.Context, image string, stat *unix.Stat_t) error {
	script := filepath.Join(b.work, "debugfs")
	fields := fmt.Sprintf("sif / mode 0%o\nsif / uid %d\nsif / gid %d\nsif / mtime @%d\n", stat.Mode, stat.Uid, stat.Gid, stat.Mtim.Sec)
	if err := os.WriteFile(script, []byte(fields), 0o600); err != nil {
		return err
	}
	cmd, err := hostCommand(ctx, b.args, bootisoStage, "debugfs", "-w", "-f", script, image)
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	err = cmd.Run()
	// debugfs exits with 0 whatever its commands did; its first line is its version.
	if _, faults, _ := strings.Cut(said.String(), "\n"); err != nil || faults != "" {
		return fmt.Errorf("run debugfs: %w", errors.Join(err, errors.New(strings.TrimSpace(said.String()))))
	}
	return nil
}

// makeSparse makes a file of that many bytes, without blocks.
func makeSparse(path string, size int64) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Truncate(size)
}
