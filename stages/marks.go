package stages

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/record"
	"golang.org/x/sys/unix"
)

// marks puts SELinux labels, inode flags and devices where they are kept: for files of
// the tree in its side record, for those of mounts in the filesystem, or in its side
// record if it has one.
type marks struct {
	tree string
	// record is that of the tree.
	record  record.Record
	changed bool
	mounts  []*mountMarks
}

// mountMarks are those of a mount with a side record, which is in file.
type mountMarks struct {
	path, file string
	record     record.Record
	changed    bool
}

func openMarks(args *module.Args) (*marks, error) {
	r, err := record.Open(args.Record)
	if err != nil {
		return nil, err
	}
	m := &marks{tree: filepath.Clean(args.Tree), record: r}
	for _, mount := range args.Mounts {
		if mount.Record == "" {
			continue
		}
		r, err := record.Open(mount.Record)
		if err != nil {
			return nil, err
		}
		m.mounts = append(m.mounts, &mountMarks{path: filepath.Clean(mount.Path), file: mount.Record, record: r})
	}
	return m, nil
}

// recorded returns the side record that a file belongs to, what tells that it was
// changed, and the file's path in it; nil if the file's filesystem takes everything.
func (m *marks) recorded(file string) (r record.Record, changed *bool, name string) {
	if name, ok := below(file, m.tree); ok {
		return m.record, &m.changed, name
	}
	longest := ""
	for _, mount := range m.mounts {
		if path, ok := below(file, mount.path); ok && len(mount.path) > len(longest) {
			r, changed, name, longest = mount.record, &mount.changed, path, mount.path
		}
	}
	return r, changed, name
}

// below returns the path of a file as seen from dir, or false.
func below(file, dir string) (string, bool) {
	if file == dir {
		return "/", true
	}
	rest, ok := strings.CutPrefix(file, dir+"/")
	return "/" + rest, ok
}

// label gives a file, which may be a symbolic link, an SELinux context.
func (m *marks) label(file, label string) error {
	r, changed, name := m.recorded(file)
	if r == nil {
		err := unix.Lsetxattr(file, "security.selinux", append([]byte(label), 0), 0)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("%w: a mounted filesystem is labelled by root only; label the tree before it is copied, and write the disk with org.ossify.disk", err)
		}
		return err
	}
	if _, err := os.Lstat(file); err != nil && r[name].Device.Kind == 0 {
		return err
	}
	r.SetLabel(name, label)
	*changed = true
	return nil
}

// flag sets those of the inode flags in mask to what they are in flags.
func (m *marks) flag(file string, flags, mask uint32) error {
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return fmt.Errorf("%s: only files and directories have inode flags", filepath.Base(file))
	}
	if r, changed, name := m.recorded(file); r != nil {
		r.SetFlags(name, flags, mask)
		*changed = true
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(have&^mask|flags&mask))
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: inode flags of a mounted filesystem are set by root only; set them in the tree before it is copied, and write the disk with org.ossify.disk", err)
	}
	return err
}

// device makes a device node, in a mounted filesystem a real one.
func (m *marks) device(file string, d record.Device) error {
	if name, ok := below(file, m.tree); ok {
		m.record.SetDevice(name, d)
		m.changed = true
		return nil
	}
	kind := uint32(unix.S_IFCHR)
	if d.Kind == 'b' {
		kind = unix.S_IFBLK
	}
	if err := unix.Mknod(file, kind, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
		return fmt.Errorf("make device %s: %w; only root makes them in a mounted filesystem: write the disk with org.ossify.disk", file, err)
	}
	return errors.Join(os.Lchown(file, int(d.UID), int(d.GID)), unix.Chmod(file, d.Mode))
}

// save leaves the side records for the engine that were changed.
func (m *marks) save() error {
	for _, mount := range m.mounts {
		if mount.changed {
			if err := module.WriteRecord(mount.file, mount.record); err != nil {
				return err
			}
		}
	}
	if !m.changed {
		return nil
	}
	return module.SetRecord(m.record)
}
