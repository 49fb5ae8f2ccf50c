package pipeline

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ossify/ossify/lease"
	"github.com/ossify/ossify/lease/wire"
	"github.com/ossify/ossify/loop"
	"github.com/ossify/ossify/record"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/sparse"
	"golang.org/x/sys/unix"
)

// offlineLease is the way of a mount whose filesystem ossify-loop makes and
// mounts (Meta.Offline).
const offlineLease = "lease"

// mkfsStage begins the names of the stages that ossify-loop carries out.
const mkfsStage = "org.osbuild.mkfs."

// leased is a part of a file of the tree whose filesystem ossify-loop has, from
// the stage that makes it to the last one that mounts a filesystem of the
// pipeline. Then its bytes are put into the file.
type leased struct {
	region loop.Region
	// kind is the filesystem's type, made the index of the stage that makes it.
	kind string
	made int
	conn *lease.Conn
	// index is that of the partition in the lease.
	index uint8
	// records are the side records of what was mounted, by subvolume.
	records map[string]record.Record
}

// leaseChain are the leased parts of a pipeline. What lies in them is not in the
// checkpoints of the stages from first on to the one before last, which no other
// build can go on from.
type leaseChain struct {
	first, last int
	parts       []*leased
}

// planLease finds what of a pipeline has to be leased, nil for nothing.
func (b *builder) planLease(p *Pipeline) (*leaseChain, error) {
	if b.Containers.HasLoopDevices() {
		return nil, nil
	}
	c := &leaseChain{}
	for i, s := range p.Stages {
		for _, m := range s.Mounts {
			if m.Module.Meta.Offline != offlineLease {
				continue
			}
			if err := c.add(p, i, m); err != nil {
				return nil, fmt.Errorf("pipeline %q: stage %d (%s): mount %q: %w", p.Name, i, s.Name, m.Name, err)
			}
		}
	}
	if c.parts == nil {
		return nil, nil
	}
	c.first = len(p.Stages)
	for _, part := range c.parts {
		c.first = min(c.first, part.made)
	}
	for _, s := range p.Stages[c.first : c.last+1] {
		if err := c.checkDevices(s); err != nil {
			return nil, fmt.Errorf("pipeline %q: stage %d (%s): %w", p.Name, s.Index, s.Name, err)
		}
	}
	return c, nil
}

// add adds what stage i of the pipeline mounts.
func (c *leaseChain) add(p *Pipeline, i int, m *Mount) error {
	kind := strings.TrimPrefix(m.Module.Name, "org.osbuild.")
	if m.Device == nil || m.Device.Parent != nil || m.Device.Module.Meta.Offline != offlineFile || m.Partition != nil {
		return errors.New("without root it is mounted from an org.osbuild.loopback that has the partition's start and size")
	}
	region, err := loop.ParseRegion(orEmptyJSON(m.Device.Options))
	if err != nil {
		return err
	}
	c.last = i
	if c.find(region) != nil {
		return nil
	}
	for made := i - 1; made >= 0; made-- {
		s := p.Stages[made]
		if s.Name != mkfsStage+kind || len(s.Devices) != 1 {
			continue
		}
		if of, err := loop.ParseRegion(orEmptyJSON(s.Devices[0].Options)); err == nil && samePart(of, region) {
			c.parts = append(c.parts, &leased{region: *of, kind: kind, made: made})
			return nil
		}
	}
	return fmt.Errorf("without root only a filesystem is mounted that an earlier stage of the pipeline makes: there is no %s%s for the same part of %s", mkfsStage, kind, region.Filename)
}

// samePart tells whether two devices are the same part of a file.
func samePart(a, b *loop.Region) bool {
	return filepath.Clean("/"+a.Filename) == filepath.Clean("/"+b.Filename) && a.Start == b.Start && a.Size == b.Size && a.SectorSize == b.SectorSize
}

// find returns the leased part that a device is, or nil.
func (c *leaseChain) find(region *loop.Region) *leased {
	if c == nil {
		return nil
	}
	for _, part := range c.parts {
		if samePart(&part.region, region) {
			return part
		}
	}
	return nil
}

// ofDevice returns the leased part that a stage's device is, or nil.
func (c *leaseChain) ofDevice(s *Stage, d *Device) *leased {
	if c == nil || d == nil || s.Index < c.first || s.Index > c.last || d.Module.Meta.Offline != offlineFile {
		return nil
	}
	region, err := loop.ParseRegion(orEmptyJSON(d.Options))
	if err != nil {
		return nil
	}
	return c.find(region)
}

// checkDevices refuses stages that look at the bytes of a leased part, which are
// not in the file.
func (c *leaseChain) checkDevices(s *Stage) error {
	mounted := map[*Device]bool{}
	for _, m := range s.Mounts {
		mounted[m.Device] = m.Module.Meta.Offline == offlineLease
	}
	for _, d := range s.Devices {
		if part := c.ofDevice(s, d); part != nil && !mounted[d] && s.Index > part.made {
			return fmt.Errorf("device %q: without root nothing but mounts can use the %s between the stage that makes it and the last one that mounts one: move the stage behind stage %d", d.Name, part.kind, c.last)
		}
	}
	return nil
}

// makes returns the part that the stage makes the filesystem of, or nil.
func (c *leaseChain) makes(s *Stage) *leased {
	if c == nil {
		return nil
	}
	for _, part := range c.parts {
		if part.made == s.Index {
			return part
		}
	}
	return nil
}

// make has ossify-loop make the filesystem, as the stage says. tree is the
// stage's tree.
func (l *leased) make(ctx context.Context, helper, tree string, s *Stage) error {
	file, _, size, err := l.region.Open(tree)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	filesystem, err := leasedFilesystem(l.kind, s.Options)
	if err != nil {
		return err
	}
	return l.take(ctx, helper, size, filesystem)
}

// take takes a lease of size bytes and has the filesystem made in it.
func (l *leased) take(ctx context.Context, helper string, size int64, filesystem lease.Filesystem) (err error) {
	if l.conn, err = lease.Dial(ctx, helper); err != nil {
		return err
	}
	if err := l.conn.Create(ctx, uint64(size)); err != nil {
		return err
	}
	if l.index, err = l.conn.Partition(ctx, uint64(size), max(l.region.SectorSize, 512)); err != nil {
		return err
	}
	return l.conn.Mkfs(ctx, l.index, filesystem)
}

// leasedFilesystem is what the options of org.osbuild.mkfs.KIND ask for.
func leasedFilesystem(kind string, options json.RawMessage) (lease.Filesystem, error) {
	fs := lease.Filesystem{Options: map[wire.Options]bool{}}
	var o struct {
		UUID             string `json:"uuid"`
		Label            string `json:"label"`
		LazyInit         *bool  `json:"lazy_init"`
		Verity           *bool  `json:"verity"`
		OrphanFile       *bool  `json:"orphan_file"`
		MetadataCsumSeed *bool  `json:"metadata_csum_seed"`
		AGCount          uint32 `json:"agcount"`
		Metadata         string `json:"metadata"`
	}
	decoder := json.NewDecoder(bytes.NewReader(orEmptyJSON(options)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&o); err != nil {
		return fs, fmt.Errorf("decode options: %w", err)
	}
	fs.Type = map[string]wire.Filesystem{"ext4": wire.Ext4, "xfs": wire.XFS, "btrfs": wire.Btrfs}[kind]
	fs.Label, fs.Groups = o.Label, o.AGCount
	id, err := hex.DecodeString(strings.ReplaceAll(o.UUID, "-", ""))
	if err != nil || len(id) != len(fs.UUID) {
		return fs, fmt.Errorf("%q is no uuid", o.UUID)
	}
	copy(fs.UUID[:], id)
	switch o.Metadata {
	case "":
	case "dup", "single":
		fs.Options[wire.MetadataDup] = o.Metadata == "dup"
	default:
		return fs, fmt.Errorf("metadata %q needs root: dup and single do not", o.Metadata)
	}
	for option, value := range map[wire.Options]*bool{
		wire.LazyInit: o.LazyInit, wire.Verity: o.Verity, wire.OrphanFile: o.OrphanFile, wire.MetadataCsumSeed: o.MetadataCsumSeed,
	} {
		if value != nil {
			fs.Options[option] = *value
		}
	}
	return fs, nil
}

// leasedMount are the options of a mount.
type leasedMount struct {
	ReadOnly   bool   `json:"readonly"`
	NoRecovery bool   `json:"norecovery"`
	Subvol     string `json:"subvol"`
	Compress   string `json:"compress"`
}

func parseLeasedMount(m *Mount) (o leasedMount, err error) {
	if err := json.Unmarshal(orEmptyJSON(m.Options), &o); err != nil {
		return o, fmt.Errorf("decode options: %w", err)
	}
	if o.NoRecovery || o.Compress != "" {
		return o, errors.New("norecovery and compress need root: leave them out")
	}
	return o, nil
}

// mount returns a mount, detached; the caller closes it.
func (l *leased) mount(ctx context.Context, o leasedMount) (*os.File, error) {
	if l.conn == nil {
		return nil, fmt.Errorf("the %s was not made", l.kind)
	}
	how := lease.MountOptions{ReadOnly: o.ReadOnly, Subvolume: o.Subvol}
	var err error
	if how.UIDs, err = idRanges("/proc/self/uid_map"); err != nil {
		return nil, err
	}
	if how.GIDs, err = idRanges("/proc/self/gid_map"); err != nil {
		return nil, err
	}
	return l.conn.Mount(ctx, l.index, how)
}

// idRanges reads this process' own map of ids.
func idRanges(path string) (ranges []wire.Range, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		var r wire.Range
		if _, err := fmt.Sscan(line, &r.Disk, &r.Host, &r.Count); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, line, err)
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// export puts the bytes of all filesystems into the files of the tree.
func (c *leaseChain) export(ctx context.Context, tree string) error {
	for _, part := range c.parts {
		if err := part.export(ctx, tree); err != nil {
			return fmt.Errorf("take the %s from ossify-loop: %w", part.kind, err)
		}
	}
	return nil
}

// marks returns what a mount for a user namespace cannot store: side records, and
// capabilities as real root writes them; of the others, version 3, says whose root
// they are for.
func (l *leased) marks(ctx context.Context) ([]wire.Entry, error) {
	mount, err := l.mount(ctx, leasedMount{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer mount.Close()
	root := fmt.Sprintf("/proc/self/fd/%d", mount.Fd())
	marks := map[string]wire.Entry{}
	for subvolume, r := range l.records {
		for name, e := range r {
			name = strings.TrimPrefix(filepath.Join("/", subvolume, name), "/")
			if name == "" {
				name = "."
			}
			_, err := os.Lstat(filepath.Join(root, name))
			if e.Label == "" && e.Flags == 0 || errors.Is(err, os.ErrNotExist) {
				continue // an entry of what is not there
			}
			if err != nil {
				return nil, err
			}
			marks[name] = wire.Entry{Path: name, SELinux: e.Label, Flags: uint8(e.Flags)}
		}
	}
	err = filepath.WalkDir(root+"/.", func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		var value [64]byte
		n, err := unix.Lgetxattr(path, "security.capability", value[:])
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the capabilities of %s: %w", entry.Name(), err)
		}
		name, err := filepath.Rel(root, path)
		if err == nil && n >= vfsCapSize {
			value[3] = 2 // the version
			mark := marks[name]
			mark.Path, mark.Capability = name, [vfsCapSize]byte(value[:vfsCapSize])
			marks[name] = mark
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	entries := make([]wire.Entry, 0, len(marks))
	for _, name := range slices.Sorted(maps.Keys(marks)) {
		entries = append(entries, marks[name])
	}
	return entries, nil
}

// vfsCapSize is the size of struct vfs_cap_data of version 2 (linux/capability.h).
const vfsCapSize = 20

// exportPatience is how long the kernel may take to let go of a filesystem that
// was unmounted.
const exportPatience = 30 * time.Second

// export puts the filesystem's bytes into the file of the tree, and ends the
// lease.
func (l *leased) export(ctx context.Context, tree string) error {
	file, start, size, err := l.region.Open(tree)
	if err != nil {
		return err
	}
	return errors.Join(l.exportTo(ctx, file, start, size), file.Close())
}

// exportTo puts the filesystem's bytes into a file, and ends the lease.
func (l *leased) exportTo(ctx context.Context, file *os.File, start, size int64) error {
	entries, err := l.marks(ctx)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		if err := whenFree(ctx, func() error { return l.conn.Label(ctx, l.index, entries) }); err != nil {
			return err
		}
	}
	var from *os.File
	err = whenFree(ctx, func() (err error) {
		from, err = l.conn.Export(ctx, l.index)
		return err
	})
	if err != nil {
		return err
	}
	defer from.Close()
	if err := sparse.Copy(file, start, from, 0, size); err != nil {
		return fmt.Errorf("copy the %s: %w", l.kind, err)
	}
	return l.close()
}

// whenFree calls f until the filesystem is not mounted any more.
func whenFree(ctx context.Context, f func() error) error {
	for start := time.Now(); ; {
		err := f()
		if !errors.Is(err, unix.EBUSY) || time.Since(start) > exportPatience {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// sync returns what could not be written.
func (l *leased) sync(ctx context.Context) error {
	if err := l.conn.Sync(ctx, l.index); err != nil {
		return fmt.Errorf("write the %s: %w", l.kind, err)
	}
	return nil
}

// close ends the lease, if there is one.
func (l *leased) close() error {
	if l.conn == nil {
		return nil
	}
	err := l.conn.Close()
	l.conn = nil
	return err
}

// leftRecord is a file in which a stage leaves the side record of a mount.
type leftRecord struct {
	path      string
	part      *leased
	subvolume string
}

// mountLeased shows a leased filesystem to the stage, with a file for what cannot be
// stored in it without root.
func (a *attached) mountLeased(ctx context.Context, m *Mount, part *leased) error {
	o, err := parseLeasedMount(m)
	if err != nil {
		return err
	}
	file, err := part.mount(ctx, o)
	if err != nil {
		return err
	}
	a.clones = append(a.clones, file)
	a.leased = append(a.leased, part)
	left := leftRecord{path: m.record(), part: part, subvolume: o.Subvol}
	a.left = append(a.left, left)
	a.ops = append(a.ops, sandbox.Attach{Mount: file, Target: m.inside()})
	if r := part.records[o.Subvol]; len(r) > 0 {
		var data bytes.Buffer
		if err := r.Encode(&data); err != nil {
			return err
		}
		a.ops = append(a.ops, sandbox.File{Target: left.path, Content: data.Bytes(), Mode: 0o644})
	}
	return nil
}

// takeRecords takes what a stage has left.
func (a *attached) takeRecords(left map[string][]byte) error {
	for _, l := range a.left {
		data := left[l.path]
		if data == nil {
			continue
		}
		r, err := record.Decode(bytes.NewReader(data))
		if err != nil {
			return err
		}
		if l.part.records == nil {
			l.part.records = map[string]record.Record{}
		}
		l.part.records[l.subvolume] = r
	}
	return nil
}

// hideChain sees that no build goes on from a checkpoint that lacks what is leased:
// their keys are those of no other build.
func (b *builder) hideChain(p *Pipeline, c *leaseChain) {
	for _, s := range p.Stages[c.first:c.last] {
		b.keys[s] = digest(b.keys[s], rand.Text())
	}
}

// canMount says why a mount cannot be made here, if that is known before.
func (b *builder) canMount(m *Mount) error {
	const without = "write the disk with the stage org.ossify.disk or the assembler org.osbuild.qemu, which need no mount"
	switch meta := m.Module.Meta; {
	case !meta.Root || b.Containers.HasLoopDevices():
		return nil
	case meta.Offline != offlineLease:
		return errors.New("it is one of the kernel, which only root may make: run ossify as root, or " + without)
	}
	return b.reachHelper("it is one of the kernel, which only root may make: run ossify as root", without)
}

// reachHelper says why ossify-loop cannot be had: what is wrong without it, and what
// does without.
func (b *builder) reachHelper(wrong, without string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := lease.Dial(ctx, b.Helper)
	if err == nil {
		err = conn.Close()
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s, or install the helper ossify-loop (sudo make install-helper) and join its group, or %s", wrong, without)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("the helper ossify-loop at %s, which makes mounts of the kernel, is for a group that you are not in: ask for sudo usermod --append --groups GROUP USER (ls -l shows the group) and log in again; or %s", b.Helper, without)
	}
	return fmt.Errorf("the helper ossify-loop at %s, which makes mounts of the kernel, refuses: %w; or %s", b.Helper, err, without)
}

// closeLeases ends all leases.
func (b *builder) closeLeases() error {
	var errs []error
	for _, r := range b.runs {
		if r.lease == nil {
			continue
		}
		for _, part := range r.lease.parts {
			errs = append(errs, part.close())
		}
	}
	return errors.Join(errs...)
}
