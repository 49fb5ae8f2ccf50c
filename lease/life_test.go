package lease

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
	"testing"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// clients are the functions that run as a user.
func clients() map[string]func() error {
	return map[string]func() error{
		"life":        lifeClient,
		"flags":       flagsClient,
		"nested":      nestedClient,
		"node":        nodeClient,
		"refused":     refusedClient,
		"subordinate": subordinateClient,
		"descriptors": descriptorsClient,
		"strings":     stringsClient,
		"maps":        mapsClient,
		"backing":     backingClient,
		"busy":        busyClient,
		"flood":       floodClient,
		"silent":      silentClient,
		"vanish":      vanishClient,
		"deaf":        deafClient,
		"quota":       quotaClient,
		"subvolumes":  subvolumesClient,
		"work":        workClient,
		"made":        madeClient,
		"full":        fullClient,
		"noise":       noiseClient,
		"inside":      insideClient,
		"taken":       takenClient,
		"same":        sameClient,
	}
}

// capabilityV2 is cap_net_raw=ep as real root stores it.
var capabilityV2 = [20]byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// lifeClient does with a lease what can be done.
func lifeClient() error {
	kind := kindOf(os.Getenv("KIND"))
	c, dir, err := mounted(kind, MountOptions{})
	if err != nil {
		return err
	}
	if err := populate(dir); err != nil {
		return err
	}
	if err := list(os.Stdout, dir); err != nil {
		return err
	}
	ctx := context.Background()
	if err := c.Sync(ctx, 0); err != nil {
		return err
	}
	for _, busy := range []error{
		func() error { _, err := c.Export(ctx, 0); return err }(),
		c.Label(ctx, 0, []wire.Entry{{Path: ".", Flags: wire.Append}}),
		c.Mkfs(ctx, 0, filesystem(kind)),
	} {
		if err := want(unix.EBUSY, busy); err != nil {
			return fmt.Errorf("while mounted: %w", err)
		}
	}
	if err := unmount(dir); err != nil {
		return err
	}
	if err := c.Label(ctx, 0, []wire.Entry{
		{Path: ".", SELinux: "system_u:object_r:root_t:s0"},
		{Path: "secret/deep", SELinux: "system_u:object_r:deep_t:s0", Flags: wire.Append},
		{Path: "link", SELinux: "system_u:object_r:link_t:s0"},
		{Path: "ping", Capability: capabilityV2, Flags: wire.Immutable},
	}); err != nil {
		return err
	}
	if err := want(unix.EPERM, c.Label(ctx, 0, []wire.Entry{{Path: "link/deep", Flags: wire.Append}})); err != nil {
		return fmt.Errorf("label through a symbolic link: %w", err)
	}
	if err := want(unix.ENOENT, c.Label(ctx, 0, []wire.Entry{{Path: "nothing", Flags: wire.Append}})); err != nil {
		return fmt.Errorf("label nothing: %w", err)
	}
	// A second mount sees what the first one wrote, and cannot write.
	if err := mountAt(c, dir, MountOptions{ReadOnly: true}); err != nil {
		return err
	}
	if err := want(unix.EROFS, os.WriteFile(filepath.Join(dir, "new"), nil, 0o644)); err != nil {
		return err
	}
	if err := unmount(dir); err != nil {
		return err
	}
	f, err := c.Export(ctx, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EBADF) {
		return fmt.Errorf("write to exported bytes: %v", err)
	}
	if again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0); err == nil {
		again.Close()
		return errors.New("exported bytes can be opened for writing")
	}
	again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return fmt.Errorf("exported bytes cannot be opened again: %w", err)
	}
	again.Close()
	for _, dead := range []error{
		func() error { _, err := c.Mount(ctx, 0, MountOptions{UIDs: me().ids(), GIDs: me().ids()}); return err }(),
		c.Label(ctx, 0, []wire.Entry{{Path: ".", Flags: wire.Append}}),
		c.Mkfs(ctx, 0, filesystem(kind)),
	} {
		if err := want(unix.EPERM, dead); err != nil {
			return fmt.Errorf("after export: %w", err)
		}
	}
	pause(fmt.Sprintf("exported %d %d", os.Getpid(), f.Fd()))
	return c.Close()
}

// populate writes all kinds of things.
func populate(dir string) error {
	p := func(name string) string { return filepath.Join(dir, name) }
	for i, id := range []int{0, 1, 5, 1000, 65533} {
		name := p(fmt.Sprintf("owner%d", i))
		if err := errors.Join(os.WriteFile(name, []byte("x"), 0o600), os.Chown(name, id, id)); err != nil {
			return err
		}
	}
	mask := unix.Umask(0)
	defer unix.Umask(mask)
	return errors.Join(
		os.WriteFile(p("setuid"), nil, 0o755), os.Chown(p("setuid"), 7, 8), unix.Chmod(p("setuid"), 0o6755),
		os.Mkdir(p("sticky"), 0o777), unix.Chmod(p("sticky"), 0o1777),
		os.Mkdir(p("secret"), 0o700), os.WriteFile(p("secret/deep"), []byte("deep"), 0), os.Chown(p("secret/deep"), 9, 9), os.Chown(p("secret"), 9, 9),
		os.WriteFile(p("xattr"), nil, 0o644), unix.Setxattr(p("xattr"), "user.test", []byte("value"), 0),
		os.WriteFile(p("ping"), nil, 0o755), unix.Setxattr(p("ping"), "security.capability", capabilityV2[:], 0),
		os.WriteFile(p("getcap"), nil, 0o755), unix.Setxattr(p("getcap"), "security.capability", capabilityV2[:], 0),
		os.Link(p("xattr"), p("hard")),
		os.Symlink("secret", p("link")),
		unix.Mkfifo(p("fifo"), 0o640),
	)
}

// list writes a line for each path with owner, mode, links and extended attributes,
// but for those of capabilities, which are others outside of the namespace.
func list(w io.Writer, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if d.IsDir() && name == "lost+found" {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		value := make([]byte, 64)
		n, _ := unix.Lgetxattr(path, "user.test", value)
		links := st.Nlink
		if d.IsDir() {
			links = 0
		}
		_, err = fmt.Fprintf(w, "%s %o %d:%d %d %q\n", name, st.Mode, st.Uid, st.Gid, links, value[:max(n, 0)])
		return err
	})
}

// TestLife takes a lease through its life in a user namespace, and looks at what it
// has left as root.
func TestLife(t *testing.T) {
	h := newHelper(t)
	for _, kind := range kinds() {
		t.Run(kind.String(), func(t *testing.T) {
			h.t = t
			c := h.launch(alice, true, "life", fmt.Sprint("KIND=", int(kind)))
			var seen strings.Builder
			line := c.line()
			for ; !strings.HasPrefix(line, "exported "); line = c.line() {
				fmt.Fprintln(&seen, line)
			}
			var inside, fd int
			fmt.Sscanf(line, "exported %d %d", &inside, &fd)
			image := filepath.Join(h.dir, "image")
			// The client's process numbers are those of the machine.
			copyFile(t, fmt.Sprintf("/proc/%d/fd/%d", inside, fd), image)
			c.next()
			c.end()
			defer os.Remove(image)

			dir := t.TempDir()
			run(t, "mount", "-o", "loop,ro", image, dir)
			defer run(t, "umount", dir)
			var stored strings.Builder
			if err := list(&stored, dir); err != nil {
				t.Fatal(err)
			}
			if stored.String() != seen.String() {
				t.Errorf("in the namespace it was\n%s\non disk it is\n%s", &seen, &stored)
			}
			if !strings.Contains(stored.String(), "owner0 100600 0:0 1 ") || !strings.Contains(stored.String(), "setuid 106755 7:8 1 ") {
				t.Errorf("on disk is\n%s", &stored)
			}
			for _, x := range []struct{ path, name, want string }{
				{".", "security.selinux", "system_u:object_r:root_t:s0\x00"},
				{"secret/deep", "security.selinux", "system_u:object_r:deep_t:s0\x00"},
				{"link", "security.selinux", "system_u:object_r:link_t:s0\x00"},
				{"ping", "security.capability", string(capabilityV2[:])},
			} {
				value := make([]byte, 256)
				n, err := unix.Lgetxattr(filepath.Join(dir, x.path), x.name, value)
				if err != nil || string(value[:n]) != x.want {
					t.Errorf("%s of %s is %q, %v", x.name, x.path, value[:max(n, 0)], err)
				}
			}
			for path, flag := range map[string]uint32{"ping": wire.Immutable, "secret/deep": wire.Append, "setuid": 0} {
				f, err := os.Open(filepath.Join(dir, path))
				if err != nil {
					t.Fatal(err)
				}
				flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
				f.Close()
				if err != nil || flags&(wire.Append|wire.Immutable) != flag {
					t.Errorf("flags of %s are %#x, %v", path, flags, err)
				}
			}
			out := run(t, "blkid", "-o", "export", image)
			if !strings.Contains(out, "UUID=deadbeef-0000-0000-0000-00000000000"+fmt.Sprint(int(kind))) || !strings.Contains(out, "LABEL=test") {
				t.Errorf("blkid: %s", out)
			}
		})
	}
	h.t = t
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	run(t, "cp", "--sparse=always", from, to)
}

// run runs a program of the machine.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, bytes.TrimSpace(out))
	}
	return string(out)
}
