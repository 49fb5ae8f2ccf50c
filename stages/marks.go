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
// the tree in its side record, for those of mounts, which are filesystems that
// can hold them, in the filesystem.
type marks struct {
	tree    string
	record  record.Record
	changed bool
}

func openMarks(args *module.Args) (*marks, error) {
	r, err := record.Open(args.Record)
	return &marks{tree: filepath.Clean(args.Tree), record: r}, err
}

// inTree returns the path of a file as seen from the tree, or false.
func (m *marks) inTree(file string) (string, bool) {
	if file == m.tree {
		return "/", true
	}
	rest, ok := strings.CutPrefix(file, m.tree+"/")
	return "/" + rest, ok
}

// label gives a file, which may be a symbolic link, an SELinux context.
func (m *marks) label(file, label string) error {
	name, ok := m.inTree(file)
	if !ok {
		err := unix.Lsetxattr(file, "security.selinux", append([]byte(label), 0), 0)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("%w: a mounted filesystem is labelled by root only; label the tree before it is copied, and write the disk with org.ossify.disk", err)
		}
		return err
	}
	if _, err := os.Lstat(file); err != nil && m.record[name].Device.Kind == 0 {
		return err
	}
	m.record.SetLabel(name, label)
	m.changed = true
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
	if name, ok := m.inTree(file); ok {
		m.record.SetFlags(name, flags, mask)
		m.changed = true
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
	if name, ok := m.inTree(file); ok {
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

// save leaves the side record for the engine if it was changed.
func (m *marks) save() error {
	if !m.changed {
		return nil
	}
	return module.SetRecord(m.record)
}
