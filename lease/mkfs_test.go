package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// made is what "made" makes and exports.
type made struct {
	Filesystem
	Size   uint64
	Sector uint32
}

// TestMkfs compares filesystems of the helper with those that the same program makes
// on a loop device.
func TestMkfs(t *testing.T) {
	h := newHelper(t)
	all := map[wire.Options]bool{wire.LazyInit: true, wire.Verity: true, wire.OrphanFile: true, wire.MetadataCsumSeed: true}
	none := map[wire.Options]bool{wire.LazyInit: false, wire.Verity: false, wire.OrphanFile: false, wire.MetadataCsumSeed: false}
	const uuid = "de1ade1a-de1a-de1a-de1a-de1ade1ade1a"
	bytes := [16]byte{}
	for i := range bytes {
		bytes[i] = []byte{0xde, 0x1a}[i%2]
	}
	for _, c := range []struct {
		name string
		made
		args []string
	}{
		{"ext4", made{Filesystem{Type: wire.Ext4}, 64 << 20, 512}, []string{"-U", uuid}},
		{"ext4 large", made{Filesystem{Type: wire.Ext4}, 1 << 30, 512}, []string{"-U", uuid}},
		{"ext4 sectors of 4096", made{Filesystem{Type: wire.Ext4}, 64 << 20, 4096}, []string{"-U", uuid}},
		{"ext4 everything", made{Filesystem{Type: wire.Ext4, Label: "a label", Options: all}, 64 << 20, 512}, []string{"-U", uuid, "-L", "a label",
			"-E", "lazy_itable_init=1", "-E", "lazy_journal_init=1", "-O", "verity", "-O", "orphan_file", "-O", "metadata_csum_seed"}},
		{"ext4 nothing", made{Filesystem{Type: wire.Ext4, Options: none}, 64 << 20, 512}, []string{"-U", uuid,
			"-E", "lazy_itable_init=0", "-E", "lazy_journal_init=0", "-O", "^verity", "-O", "^orphan_file", "-O", "^metadata_csum_seed"}},
		{"xfs", made{Filesystem{Type: wire.XFS, Label: "root"}, 320 << 20, 512}, []string{"-m", "uuid=" + uuid, "-L", "root"}},
		{"xfs sectors of 4096", made{Filesystem{Type: wire.XFS}, 320 << 20, 4096}, []string{"-m", "uuid=" + uuid}},
		{"xfs groups", made{Filesystem{Type: wire.XFS, Groups: 2}, 320 << 20, 512}, []string{"-m", "uuid=" + uuid, "-d", "agcount=2"}},
		{"btrfs", made{Filesystem{Type: wire.Btrfs, Label: "ü x"}, 128 << 20, 512}, []string{"-U", uuid, "-L", "ü x"}},
		{"btrfs single", made{Filesystem{Type: wire.Btrfs, Options: map[wire.Options]bool{wire.MetadataDup: false}}, 128 << 20, 512}, []string{"-U", uuid, "-m", "single"}},
		{"btrfs dup", made{Filesystem{Type: wire.Btrfs, Options: map[wire.Options]bool{wire.MetadataDup: true}}, 128 << 20, 512}, []string{"-U", uuid, "-m", "dup"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			c.UUID = bytes
			text, err := json.Marshal(c.made)
			if err != nil {
				t.Fatal(err)
			}
			client := h.launch(alice, false, "made", "MADE="+string(text))
			var pid, fd int
			fmt.Sscanf(client.line(), "exported %d %d", &pid, &fd)
			got := describe(t, c.Type, fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
			client.next()
			client.end()

			image := filepath.Join(h.dir, "image")
			defer os.Remove(image)
			if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, int64(c.Size))); err != nil {
				t.Fatal(err)
			}
			dev := strings.TrimSpace(run(t, "losetup", "--find", "--show", "--sector-size", fmt.Sprint(c.Sector), image))
			run(t, "mkfs."+c.Type.String(), append(c.args, dev)...)
			run(t, "losetup", "-d", dev)
			if want := describe(t, c.Type, image); got != want {
				t.Errorf("the helper makes\n%s\nthe program on a loop device\n%s", got, want)
			}
		})
	}
	h.t = t
}

// describe is what the filesystem's own program tells of it, but for times and chance.
func describe(t *testing.T, kind wire.Filesystem, path string) string {
	t.Helper()
	var out string
	chance := `(?m)^.*(created|write time|Last checked|Hash Seed|Checksum|Checksum seed|Lifetime writes|checksum|seed|superblock: bytenr|csum\s|dev_item.uuid|lsn).*\n`
	switch kind {
	case wire.Ext4:
		out = run(t, "dumpe2fs", "-h", path)
	case wire.XFS:
		out = run(t, "xfs_db", "-r", "-f", "-c", "sb 0", "-c", "print", path)
		chance = `(?m)^(crc|lsn) =.*\n`
	case wire.Btrfs:
		out = run(t, "btrfs", "inspect-internal", "dump-super", path)
	}
	return regexp.MustCompile(chance).ReplaceAllString(out, "")
}

func madeClient() error {
	var m made
	if err := json.Unmarshal([]byte(os.Getenv("MADE")), &m); err != nil {
		return err
	}
	ctx := context.Background()
	c, err := dial()
	if err != nil {
		return err
	}
	if err := c.Create(ctx, 2*m.Size); err != nil {
		return err
	}
	for index := range uint8(2) {
		if _, err := c.Partition(ctx, m.Size, m.Sector); err != nil {
			return err
		}
		fs := m.Filesystem
		fs.UUID[0] += index
		if err := c.Mkfs(ctx, index, fs); err != nil {
			return err
		}
	}
	// It can be mounted, also with large sectors; that changes it, so it is the other one.
	f, err := c.Mount(ctx, 1, MountOptions{ReadOnly: true, UIDs: me().ids(), GIDs: me().ids()})
	if err != nil {
		return err
	}
	f.Close()
	if f, err = c.Export(ctx, 0); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != int64(m.Size) || st.Blocks*512 < st.Size {
		return fmt.Errorf("%d bytes, %d of them on the disk, %v", st.Size, st.Blocks*512, err)
	}
	pause(fmt.Sprintf("exported %d %d", os.Getpid(), f.Fd()))
	return c.Close()
}

// TestFull has a staging directory that is too small.
func TestFull(t *testing.T) {
	h := newStoppedHelper(t)
	staging := filepath.Join(h.dir, "staging")
	if err := os.Mkdir(staging, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", staging)
	defer run(t, "umount", staging)
	h.start()
	defer h.stop()
	h.as(alice, false, "full")
}

func fullClient() error {
	_, err := leased(wire.Ext4)
	if err := want(unix.ENOSPC, err); err != nil {
		return err
	}
	c, err := leasedOf(wire.Ext4, 8<<20)
	if err != nil {
		return err
	}
	return c.Close()
}

// noiseClient sends frames by chance.
func noiseClient() error {
	random := rand.New(rand.NewPCG(1, 2))
	kinds, err := descriptorKinds()
	if err != nil {
		return err
	}
	for range 50 {
		c, err := dialRaw()
		if err != nil {
			return err
		}
		for range 40 {
			frame := make([]byte, 8+random.IntN(400))
			if random.IntN(3) == 0 {
				frame = wire.Encode([]wire.Request{&wire.Create{Size: 9 << 20}, &wire.Partition{Size: 1 << 20, SectorSize: 512}, goodMount(), &wire.Label{}, &wire.Export{}, &wire.Sync{}, &wire.Status{}}[random.IntN(7)])
			}
			for range random.IntN(4) {
				frame[random.IntN(len(frame))] = byte(random.IntN(256))
			}
			if random.IntN(2) == 0 {
				frame[0], frame[1] = 1, byte(random.IntN(12))
			}
			var files []int
			for _, fd := range kinds {
				if random.IntN(6) == 0 {
					files = append(files, fd)
				}
			}
			if err := wire.Send(c.UnixConn, frame, files...); err != nil {
				break // it was CLOSE
			}
			_, received, err := wire.Receive(c.UnixConn)
			wire.CloseAll(received)
			if err != nil {
				break
			}
		}
		c.Close()
	}
	return nil
}
