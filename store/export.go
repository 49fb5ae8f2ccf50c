package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// exportMark is an attribute of exported files: the layer they are from, and
// their times, so that an unchanged file is not written again.
const exportMark = "user.ossify.export"

// Export copies the layer's tree into dir, an existing directory. All files
// belong to the caller. A file that an earlier Export wrote and nobody changed
// since stays as it is; others are replaced as a whole. It returns the paths of
// the files, relative to dir.
func (s *Store) Export(l *Layer, dir string) (files []string, err error) {
	stack, err := s.ReadOnly(l)
	if err != nil {
		return nil, err
	}
	scratch, remove, err := s.Scratch("export-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	unmount, err := stack.Mount(scratch)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	err = filepath.WalkDir(scratch, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(scratch, path)
		if err != nil || rel == "." {
			return err
		}
		if !d.IsDir() {
			files = append(files, rel)
		}
		return exportPath(path, filepath.Join(dir, rel), d, l.ID)
	})
	if err != nil {
		return nil, fmt.Errorf("export to %s: %w", dir, err)
	}
	return files, nil
}

// ExportTar writes the layer's tree to path as a tar archive, with the owners,
// modes, links, attributes and times of the tree. The same tree gives the same
// bytes. An error leaves what was at path.
func (s *Store) ExportTar(ctx context.Context, l *Layer, path string) (err error) {
	tool, err := exec.LookPath("tar")
	if err != nil {
		return fmt.Errorf("export to %s: tar is not installed; install it with: sudo apt-get install tar (Debian, Ubuntu) or sudo dnf install tar (Fedora)", path)
	}
	stack, err := s.ReadOnly(l)
	if err != nil {
		return err
	}
	scratch, remove, err := s.Scratch("export-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	unmount, err := stack.Mount(scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	out, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("export to %s: %w", path, err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	var messages bytes.Buffer
	cmd := exec.CommandContext(ctx, tool, "--create", "--file=-", "--directory="+scratch, "--sort=name", "--numeric-owner",
		"--acls", "--xattrs", "--xattrs-include=*", "--xattrs-exclude=user.overlay.*", "--sparse", "--hole-detection=raw", "--format=posix",
		"--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", ".")
	cmd.Stdout, cmd.Stderr = out, &messages
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("export to %s: tar: %w: %s", path, err, strings.TrimSpace(messages.String()))
	}
	if err := errors.Join(out.Chmod(0o644), out.Sync(), out.Close(), os.Rename(out.Name(), path)); err != nil {
		return fmt.Errorf("export to %s: %w", path, err)
	}
	return nil
}

func exportPath(from, to string, d fs.DirEntry, layer string) error {
	fi, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case d.IsDir():
		// The owner has to be able to fill it.
		err := os.Mkdir(to, fi.Mode().Perm()|0o700)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	case fi.Mode().IsRegular():
		return exportFile(from, to, fi, layer)
	case fi.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Symlink(link, to)
	}
	return fmt.Errorf("%s is a device, socket or pipe, which cannot be exported", to)
}

func exportFile(from, to string, fi fs.FileInfo, layer string) error {
	if mark, err := getMark(to); err == nil && mark == markOf(to, layer) {
		return nil
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	tmp, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := copySparse(tmp, src, fi.Size()); err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(to), err)
	}
	if err := errors.Join(tmp.Chmod(fi.Mode().Perm()), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	// Without extended attributes the file is merely written again next time.
	_ = unix.Setxattr(tmp.Name(), exportMark, []byte(markOf(tmp.Name(), layer)), 0)
	return os.Rename(tmp.Name(), to)
}

func markOf(path, layer string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %d.%09d", layer, st.Size, st.Mtim.Sec, st.Mtim.Nsec)
}

func getMark(path string) (string, error) {
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, exportMark, buf)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(buf[:n])), nil
}

// copySparse copies size bytes and keeps holes. The kernel shares the blocks
// where the filesystem can (copy_file_range(2)).
func copySparse(dst, src *os.File, size int64) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := src.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, hole-data); err != nil {
			return err
		}
		off = hole
	}
	return nil
}
