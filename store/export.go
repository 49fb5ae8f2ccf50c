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
	gopath "path"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/record"
	"github.com/ossify/ossify/sparse"
	"go.podman.io/storage/pkg/system"
	"golang.org/x/sys/unix"
)

// exportMark is an attribute of exported files: the layer they are from, and
// their times, so that an unchanged file is not written again.
const exportMark = "user.ossify.export"

// ExportOptions say how Export copies a tree.
type ExportOptions struct {
	// KeepOwners keeps owners, all mode bits and all attributes, for which the
	// caller has to be root on the machine. Otherwise every file belongs to the
	// caller.
	KeepOwners bool
}

// Exported is what Export has written.
type Exported struct {
	// Files are the paths of what is no directory, relative to the target.
	Files []string
	// Foreign is the number of files and directories that belong to somebody
	// else in the tree than in the copy.
	Foreign int
	// LeftOut are devices, pipes and sockets, which are not copied.
	LeftOut []string
	// Unlabelled is the number of SELinux labels and inode flags that the copy
	// has not got.
	Unlabelled int
}

// Export copies the layer's tree into dir, an existing directory, with modes,
// times and hard links. A file that an earlier Export wrote and nobody changed
// since stays as it is; others are replaced as a whole.
func (s *Store) Export(l *Layer, dir string, opts ExportOptions) (_ *Exported, err error) {
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
	e := &exporter{ExportOptions: opts, layer: l.ID, from: scratch, to: dir, links: map[uint64]string{}}
	if err := filepath.WalkDir(scratch, e.visit); err != nil {
		return nil, fmt.Errorf("export to %s: %w", dir, err)
	}
	// Filling a directory changes its times, and may need what its mode forbids.
	for i := len(e.dirs) - 1; i >= 0; i-- {
		if err := e.finishDir(e.dirs[i]); err != nil {
			return nil, fmt.Errorf("export to %s: %w", dir, err)
		}
	}
	if err := e.applyRecord(s, l); err != nil {
		return nil, fmt.Errorf("export to %s: %w", dir, err)
	}
	return &e.done, nil
}

// applyRecord sets SELinux labels, if owners are kept, and counts what is not set.
func (e *exporter) applyRecord(s *Store, l *Layer) error {
	data, err := s.Record(l)
	if err != nil || data == nil {
		return err
	}
	r, err := record.Decode(bytes.NewReader(data))
	if err != nil {
		return err
	}
	for name, entry := range r {
		to := filepath.Join(e.to, name)
		if _, err := os.Lstat(to); err != nil {
			if entry.Device.Kind != 0 {
				e.done.LeftOut = append(e.done.LeftOut, strings.TrimPrefix(name, "/"))
			}
			continue // not in the tree, or not copied
		}
		if entry.Flags != 0 {
			e.done.Unlabelled++ // what is immutable cannot be exported again
		}
		if entry.Label == "" {
			continue
		}
		if !e.KeepOwners {
			e.done.Unlabelled++
		} else if err := unix.Lsetxattr(to, "security.selinux", append([]byte(entry.Label), 0), 0); err != nil {
			return &fs.PathError{Op: "label", Path: to, Err: err}
		}
	}
	return nil
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
	cmd.Stderr = &messages
	if err := s.pack(l, cmd, scratch, out); err != nil {
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

// pack runs tar on the layer's tree and adds what is in its side record to what
// tar writes.
func (s *Store) pack(l *Layer, tar *exec.Cmd, tree string, out io.Writer) error {
	data, err := s.Record(l)
	if err != nil {
		return err
	}
	if data == nil {
		tar.Stdout = out
		return tar.Run()
	}
	r, err := record.Decode(bytes.NewReader(data))
	if err != nil {
		return err
	}
	options := record.TarOptions{Keywords: []string{record.TarXattr}, Devices: map[string]record.Device{}}
	options.Label = func(_ int, name string) string { return r[gopath.Join("/", name)].Label }
	for name, device := range r.Devices(tree) {
		options.Devices["."+name] = device
	}
	archive, err := tar.StdoutPipe()
	if err != nil {
		return err
	}
	if err := tar.Start(); err != nil {
		return err
	}
	if err := record.CompleteTar(out, archive, options); err != nil {
		// What went wrong with tar is the better reason.
		_ = archive.Close()
		return errors.Join(tar.Wait(), err)
	}
	return tar.Wait()
}

// exporter is one call of Export.
type exporter struct {
	ExportOptions
	layer, from, to string
	// links are the copies of files with several names, by inode.
	links map[uint64]string
	// dirs are the directories, relative to from.
	dirs []string
	done Exported
}

func (e *exporter) visit(from string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(e.from, from)
	if err != nil {
		return err
	}
	to := filepath.Join(e.to, rel)
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: rel, Err: err}
	}
	if rel == "." {
		return nil
	}
	if !e.KeepOwners && (st.Uid != 0 || st.Gid != 0) {
		e.done.Foreign++
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.dirs = append(e.dirs, rel)
		err := os.Mkdir(to, 0o700)
		if errors.Is(err, fs.ErrExist) {
			err = os.Chmod(to, 0o700)
		}
		return err
	case unix.S_IFREG:
		e.done.Files = append(e.done.Files, rel)
		return e.file(from, to, &st)
	case unix.S_IFLNK:
		e.done.Files = append(e.done.Files, rel)
		return e.symlink(from, to, &st)
	}
	e.done.LeftOut = append(e.done.LeftOut, rel)
	return nil
}

func (e *exporter) file(from, to string, st *unix.Stat_t) error {
	if first, ok := e.links[st.Ino]; ok && st.Nlink > 1 {
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Link(first, to)
	}
	e.links[st.Ino] = to
	if mark, err := getMark(to); err == nil && mark == markOf(to, e.layer) {
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
	err = tmp.Truncate(st.Size)
	if err == nil {
		err = sparse.Copy(tmp, 0, src, 0, st.Size)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(to), err)
	}
	if err := errors.Join(tmp.Sync(), tmp.Close(), e.attributes(from, tmp.Name(), st)); err != nil {
		return err
	}
	// Without extended attributes the file is merely written again next time.
	_ = unix.Setxattr(tmp.Name(), exportMark, []byte(markOf(tmp.Name(), e.layer)), 0)
	return os.Rename(tmp.Name(), to)
}

func (e *exporter) symlink(from, to string, st *unix.Stat_t) error {
	link, err := os.Readlink(from)
	if err != nil {
		return err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(link, to); err != nil {
		return err
	}
	return e.attributes(from, to, st)
}

func (e *exporter) finishDir(rel string) error {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(e.from, rel), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: rel, Err: err}
	}
	return e.attributes(filepath.Join(e.from, rel), filepath.Join(e.to, rel), &st)
}

// attributes gives the copy what it may keep: chown(2) comes first, as it takes
// away mode bits and capabilities.
func (e *exporter) attributes(from, to string, st *unix.Stat_t) error {
	if e.KeepOwners {
		if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		mode := st.Mode & 0o7777
		if !e.KeepOwners {
			mode &= 0o1777
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				mode |= 0o700 // the owner has to be able to remove it
			}
		}
		if err := unix.Chmod(to, mode); err != nil {
			return &fs.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	if err := e.xattrs(from, to); err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "set times", Path: to, Err: err}
	}
	return nil
}

// xattrs copies extended attributes: all, or those which anybody may set on a
// file of their own.
func (e *exporter) xattrs(from, to string) error {
	names, err := system.Llistxattr(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "user.overlay.") || !e.KeepOwners && !strings.HasPrefix(name, "user.") {
			continue
		}
		value, err := system.Lgetxattr(from, name)
		if err != nil {
			return err
		}
		err = system.Lsetxattr(to, name, value, 0)
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "user.") {
			continue // not on this filesystem, or not on a symbolic link
		}
		if err != nil {
			return err
		}
	}
	return nil
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
