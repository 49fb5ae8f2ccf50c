package disk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ossify/ossify/record"
	"golang.org/x/sys/unix"
)

// selinuxAttr is the attribute with the label. Like libselinux we store the NUL
// at its end.
const selinuxAttr = "security.selinux"

// lostFound is the directory that mke2fs makes.
const lostFound = "/lost+found"

// ApplyRecord gives an ext4 that fills the file image and holds the tree what the
// tree's side record has. Inodes that it changes get the time epoch, in seconds
// since 1970; scratch is a directory for temporary files, which the caller
// removes. The programs' words go to log.
func ApplyRecord(ctx context.Context, log io.Writer, image, tree string, r record.Record, epoch int64, scratch string) error {
	c := &content{part: &Partition{Filesystem: &Filesystem{Type: "ext4", Mountpoint: "/"}}, source: tree}
	if err := c.take(r, Offline); err != nil {
		return err
	}
	return (&tool{log: log, epoch: epoch}).applyRecord(ctx, image, c, scratch)
}

// take takes what of the tree's side record belongs to the files of c.
func (c *content) take(r record.Record, writer string) error {
	fs := c.part.Filesystem
	if fs.Type == "vfat" || len(r) == 0 || c.source == "" {
		return nil // FAT has room for neither, as it has none for owners
	}
	c.record = record.Record{}
	for name, e := range r.Below(fs.Mountpoint) {
		switch there, belongs := c.holds(name); {
		case !belongs:
		case there:
			e.Device = record.Device{}
			c.record[name] = e
		case e.Device.Kind != 0 || name == lostFound:
			c.record[name] = e
		}
	}
	if fs.Type != "ext4" && writer != Mounted && len(c.record) > 0 {
		return fmt.Errorf("%s is to be %s, which cannot be given SELinux labels, inode flags or devices without root: use ext4 there", fs.Mountpoint, fs.Type)
	}
	return nil
}

// holds says whether the tree has the path, as seen from the filesystem, and
// whether the path belongs to this filesystem.
func (c *content) holds(name string) (there, belongs bool) {
	for _, covered := range c.covered {
		if strings.HasPrefix(name, "/"+covered+"/") {
			return false, false
		}
	}
	_, err := os.Lstat(filepath.Join(c.source, name))
	return err == nil, true
}

// applyRecord gives the files of a new filesystem their SELinux labels and inode
// flags, and makes device nodes.
func (t *tool) applyRecord(ctx context.Context, raw string, c *content, scratch string) error {
	if len(c.record) == 0 {
		return nil
	}
	flags, err := t.inodeFlags(ctx, raw, c, scratch)
	if err != nil {
		return err
	}
	var script strings.Builder
	labels := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.record)) {
		e := c.record[name]
		quoted, err := debugfsQuote(name)
		if err != nil {
			return err
		}
		if e.Device.Kind != 0 {
			if err := makeDevice(&script, name, e.Device); err != nil {
				return err
			}
		}
		if e.Label != "" {
			file, ok := labels[e.Label]
			if !ok {
				file = filepath.Join(scratch, "label-"+strconv.Itoa(len(labels)))
				if err := os.WriteFile(file, append([]byte(e.Label), 0), 0o600); err != nil {
					return err
				}
				labels[e.Label] = file
			}
			fmt.Fprintf(&script, "ea_set -f %s %s %s\n", file, quoted, selinuxAttr)
		}
		if e.Flags != 0 {
			fmt.Fprintf(&script, "sif %s flags %#x\n", quoted, flags[name]|e.Flags)
		}
	}
	_, err = t.debugfs(ctx, raw, c, scratch, script.String(), "-w")
	if err != nil {
		return fmt.Errorf("set SELinux labels, inode flags and devices: %w", err)
	}
	return nil
}

// makeDevice adds the commands that make a device node.
func makeDevice(script *strings.Builder, name string, d record.Device) error {
	dir, err := debugfsQuote(path.Dir(name))
	if err != nil {
		return err
	}
	base, err := debugfsQuote(path.Base(name))
	if err != nil {
		return err
	}
	kind := uint32(unix.S_IFCHR)
	if d.Kind == 'b' {
		kind = unix.S_IFBLK
	}
	fmt.Fprintf(script, "cd %s\nmknod %s %c %d %d\nsif %s mode %#o\nsif %s uid %d\nsif %s gid %d\ncd /\n",
		dir, base, d.Kind, d.Major, d.Minor, base, kind|d.Mode, base, d.UID, base, d.GID)
	return nil
}

// flagsLine is what debugfs prints of an inode's flags.
var flagsLine = regexp.MustCompile(`(?m)^Inode: .* Flags: (0x[0-9a-f]+)$`)

// inodeFlags returns the flags that mke2fs gave to the files whose flags are
// recorded.
func (t *tool) inodeFlags(ctx context.Context, raw string, c *content, scratch string) (map[string]uint32, error) {
	var script strings.Builder
	var names []string
	for name, e := range c.record {
		if e.Flags == 0 {
			continue
		}
		quoted, err := debugfsQuote(name)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
		fmt.Fprintf(&script, "stat %s\n", quoted)
	}
	if len(names) == 0 {
		return nil, nil
	}
	said, err := t.debugfs(ctx, raw, c, scratch, script.String())
	if err != nil {
		return nil, err
	}
	found := flagsLine.FindAllStringSubmatch(said, -1)
	if len(found) != len(names) {
		return nil, fmt.Errorf("debugfs did not print the flags of %d files: %s", len(names), said)
	}
	out := map[string]uint32{}
	for i, match := range found {
		value, err := strconv.ParseUint(match[1], 0, 32)
		if err != nil {
			return nil, fmt.Errorf("flags of %s: %w", names[i], err)
		}
		out[names[i]] = uint32(value)
	}
	return out, nil
}

// debugfs runs a script of commands on the filesystem of c and returns what they
// print. Its status is 0 whatever they did: what counts is what they complain of.
func (t *tool) debugfs(ctx context.Context, raw string, c *content, scratch, script string, argv ...string) (string, error) {
	path, err := t.find("debugfs")
	if err != nil {
		return "", err
	}
	name := filepath.Join(scratch, "debugfs")
	if err := os.WriteFile(name, []byte(script), 0o600); err != nil {
		return "", err
	}
	var printed bytes.Buffer
	env := []string{fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", t.epoch)}
	argv = append(argv, "-f", name, fmt.Sprintf("%s?offset=%d", raw, c.part.startBytes()))
	said, err := t.listen(ctx, env, &printed, path, argv...)
	if err != nil {
		return "", err
	}
	// The first line is the version.
	if _, complaints, _ := strings.Cut(strings.TrimSpace(said), "\n"); complaints != "" {
		first, _, _ := strings.Cut(complaints, "\n")
		return "", fmt.Errorf("debugfs: %s", first)
	}
	return printed.String(), nil
}

// debugfsQuote quotes a path for a line of debugfs, which has no way to write a
// line end.
func debugfsQuote(name string) (string, error) {
	if strings.ContainsAny(name, "\n\r") || len(name) > 4000 {
		return "", fmt.Errorf("the name %.200q cannot be given an SELinux label, an inode flag or a device: it holds a line end or is too long for debugfs; rename it in an earlier stage", name)
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`, nil
}
