package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ossify/ossify/fat"
	"github.com/ossify/ossify/loop"
	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/sparse"
	"golang.org/x/sys/unix"
)

// Ways in which the engine does without the kernel what a device or mount module
// does with it (Meta.Offline).
const (
	offlineFile = "file" // a loop device: a file is shown in its place
	offlineFAT  = "fat"  // a mount: a directory is shown, and written back
	// others: see unpackers and offlineLease
)

// offlineDevices are where a stage finds the files that stand for devices.
const offlineDevices = "/run/osbuild/devices"

// region is a part of a file of the tree that a stage sees as a file.
type region struct {
	file        *os.File
	start, size int64
	// path is where the stage finds it.
	path string
	// copied is a copy of the part in the stage's scratch folder, nil if the
	// stage works on the file itself; made is what stat said when it was new.
	copied *os.File
	made   unix.Stat_t
	// directory is what is mounted of it, nil for nothing.
	directory *directory
	readOnly  bool
}

// directory is the content of a region's filesystem for the time of a stage.
type directory struct {
	fs   *fat.Filesystem
	path string
	made map[string]unix.Stat_t
}

// openOffline opens a device as a file: that of the tree, or a copy of a part of
// it, which detach writes back.
func (a *attached) openOffline(d *Device, at sandbox.Places) (*region, error) {
	if d.Parent != nil {
		return nil, fmt.Errorf("a device on the device %q needs the kernel: run ossify as root", d.Parent.Name)
	}
	o, err := loop.ParseRegion(orEmptyJSON(d.Options))
	if err != nil {
		return nil, err
	}
	if o.SectorSize != 512 {
		return nil, fmt.Errorf("sectors of %d bytes need a loop device: run ossify as root, or use sectors of 512 bytes", o.SectorSize)
	}
	r := &region{readOnly: o.ReadOnly}
	if r.file, r.start, r.size, err = o.Open(at.Tree); err != nil {
		return nil, err
	}
	a.regions = append(a.regions, r) // to be closed, whatever comes
	whole, err := r.file.Stat()
	if err != nil {
		return nil, err
	}
	if r.start == 0 && r.size == whole.Size() {
		inside, err := filepath.Rel(at.Tree, r.file.Name())
		r.path = filepath.Join("/run/osbuild/tree", inside)
		return r, err
	}
	r.path = filepath.Join(offlineDevices, strconv.Itoa(len(a.regions)))
	if err := r.copyOut(filepath.Join(a.scratch, "device-"+strconv.Itoa(len(a.regions)))); err != nil {
		return nil, fmt.Errorf("copy the part of %s: %w", o.Filename, err)
	}
	a.ops = append(a.ops, sandbox.Bind{Source: r.copied.Name(), Target: r.path, Writable: !r.readOnly})
	return r, nil
}

// copyOut copies the part to a file of its own.
func (r *region) copyOut(path string) (err error) {
	if r.copied, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	if err := r.copied.Truncate(r.size); err != nil {
		return err
	}
	if err := sparse.Copy(r.copied, 0, r.file, r.start, r.size); err != nil {
		return err
	}
	return unix.Fstat(int(r.copied.Fd()), &r.made)
}

// mountOffline shows the content of a FAT in the place of a mount.
func (a *attached) mountOffline(m *Mount) error {
	r := a.files[m.Device]
	var o struct {
		ReadOnly bool   `json:"readonly"`
		UID      int    `json:"uid"`
		GID      int    `json:"gid"`
		Umask    string `json:"umask"`
	}
	if err := json.Unmarshal(orEmptyJSON(m.Options), &o); err != nil {
		return fmt.Errorf("decode options: %w", err)
	}
	if r == nil || m.Partition != nil || r.directory != nil {
		return errors.New("without root a FAT is mounted once, from a device that has start and size: give the partition's")
	}
	umask := uint64(0o022)
	if o.Umask != "" {
		var err error
		if umask, err = strconv.ParseUint(o.Umask, 8, 9); err != nil {
			return fmt.Errorf("umask %q: %w", o.Umask, err)
		}
	}
	if r.copied == nil { // the file is the filesystem
		if err := r.copyOut(filepath.Join(a.scratch, "device-"+strconv.Itoa(len(a.regions)))); err != nil {
			return err
		}
	}
	fs, err := fat.Open(r.copied)
	if err != nil {
		return err
	}
	d := &directory{fs: fs, path: filepath.Join(a.scratch, "mount-"+strconv.Itoa(len(a.regions)))}
	if err := os.Mkdir(d.path, 0o755); err != nil {
		return err
	}
	if err := fs.Extract(d.path, os.FileMode(umask)); err != nil {
		return err
	}
	err = filepath.WalkDir(d.path, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, o.UID, o.GID)
	})
	if err != nil {
		return err
	}
	if d.made, err = d.state(); err != nil {
		return err
	}
	if !o.ReadOnly && !r.readOnly {
		r.directory = d
	}
	a.ops = append(a.ops, sandbox.Bind{Source: d.path, Target: m.inside(), Writable: !o.ReadOnly && !r.readOnly})
	return nil
}

// unpacker is a program of the build root that unpacks /run/image to /run/content.
type unpacker struct {
	program, from string // from is the package
	args          []string
	// capabilities, if there are some, are arguments with which it unpacks security.capability too.
	capabilities []string
}

// unpackers are by the filesystem, as the mount's meta.json has it in "offline". When
// fsck.erofs gives files their owners, they lose the capabilities that it has stored.
var unpackers = map[string]unpacker{
	"squashfs": {"unsquashfs", "squashfs-tools", []string{"-force", "-no-progress", "-quiet", "-dest", "/run/content", "/run/image"}, nil},
	"erofs": {"fsck.erofs", "erofs-utils, which extracts xattrs from 1.8 on",
		[]string{"--extract=/run/content", "--overwrite", "--preserve", "--xattrs", "/run/image"},
		[]string{"--extract=/run/content", "--overwrite", "--no-preserve", "--xattrs", "/run/image"}},
}

// mountUnpacked shows the content of a filesystem that cannot be written to in the place of
// a mount.
func (a *attached) mountUnpacked(ctx context.Context, b *builder, m *Mount) error {
	kind := m.Module.Meta.Offline
	tool := unpackers[kind]
	r := a.files[m.Device]
	if r == nil || m.Partition != nil {
		return fmt.Errorf("without root %s is mounted from a device that has start and size: give the partition's", kind)
	}
	image := r.file.Name()
	if r.copied != nil {
		image = r.copied.Name()
	}
	dir := filepath.Join(a.scratch, "mount-"+strconv.Itoa(len(a.ops)))
	err := a.unpack(ctx, b, tool, tool.args, image, dir)
	if err == nil && tool.capabilities != nil {
		second := dir + "-capabilities"
		if err = a.unpack(ctx, b, tool, tool.capabilities, image, second); err == nil {
			err = copyCapabilities(second, dir)
		}
	}
	if err != nil {
		return fmt.Errorf("unpack the %s with the build root's %s (package %s): %w", kind, tool.program, tool.from, err)
	}
	a.ops = append(a.ops, sandbox.Bind{Source: dir, Target: m.inside()})
	return nil
}

// unpack runs an unpacker in the build root. It makes dir, which goes when the stage has ended.
func (a *attached) unpack(ctx context.Context, b *builder, tool unpacker, args []string, image, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	a.unpacked = append(a.unpacked, dir)
	scratch, remove, err := b.Store.Scratch("unpack-")
	if err != nil {
		return err
	}
	defer func() { b.cleanup.Go(remove) }()
	var said bytes.Buffer
	status, err := b.Containers.RunTool(ctx, scratch, a.buildRoot, []sandbox.Bind{
		{Source: image, Target: "/run/image"}, {Source: dir, Target: "/run/content", Writable: true},
	}, &sandbox.Command{Args: append([]string{tool.program}, args...), Stdout: &said, Stderr: &said})
	if err == nil && status != 0 {
		err = fmt.Errorf("%s ended with status %d: %s", tool.program, status, bytes.TrimSpace(said.Bytes()))
	}
	return err
}

// copyCapabilities gives the files of a tree the capabilities that they have in another.
func copyCapabilities(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		var value [64]byte
		n, err := unix.Lgetxattr(path, "security.capability", value[:])
		if errors.Is(err, unix.ENODATA) {
			return nil
		}
		name, relErr := filepath.Rel(from, path)
		if err = errors.Join(err, relErr); err == nil {
			err = unix.Lsetxattr(filepath.Join(to, name), "security.capability", value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("capabilities of %s: %w", name, err)
		}
		return nil
	})
}

// state is what stat says of everything in the directory.
func (d *directory) state() (map[string]unix.Stat_t, error) {
	out := map[string]unix.Stat_t{}
	err := filepath.WalkDir(d.path, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		st.Atim = unix.Timespec{}
		out[path] = st
		return nil
	})
	return out, err
}

// changed tells whether a stage has changed anything in the directory.
func (d *directory) changed() (bool, error) {
	now, err := d.state()
	if err != nil || len(now) != len(d.made) {
		return true, err
	}
	for path, st := range now {
		if was, ok := d.made[path]; !ok || was != st {
			return true, nil
		}
	}
	return false, nil
}

// writeBack puts what the stage has changed into the file of the tree.
func (r *region) writeBack() error {
	if r.copied == nil || r.readOnly {
		return nil
	}
	if r.directory != nil {
		changed, err := r.directory.changed()
		if err == nil && changed {
			err = r.directory.fs.Refill(r.directory.path)
		}
		if err != nil {
			return err
		}
	}
	var now unix.Stat_t
	if err := unix.Fstat(int(r.copied.Fd()), &now); err != nil {
		return err
	}
	if now.Size != r.size {
		return fmt.Errorf("the stage made %d bytes of a device of %d", now.Size, r.size)
	}
	if now.Mtim == r.made.Mtim && now.Ctim == r.made.Ctim {
		return nil
	}
	return sparse.Copy(r.file, r.start, r.copied, 0, r.size)
}

// close lets go of the files. What is in the scratch folder goes with that, but
// for the large copies, which are not to wait for the end of the next stage.
func (r *region) close() error {
	err := r.file.Close()
	if r.copied != nil {
		err = errors.Join(err, r.copied.Close(), os.Remove(r.copied.Name()))
	}
	if r.directory != nil {
		err = errors.Join(err, overlay.RemoveAll(r.directory.path))
	}
	return err
}
