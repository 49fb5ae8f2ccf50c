// Package lease talks to ossify-loop, the helper that makes and mounts filesystems
// for people without root. The protocol is in lease/wire.
package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// DefaultPath is where ossify-loop listens when it is installed as a service.
const DefaultPath = "/run/ossify-loop/socket"

// Error is what the helper has refused: a number, which errors.Is finds, and a text
// for people.
type Error = wire.Error

// Conn is a connection to the helper, and its lease. It can be used by several
// goroutines; requests wait for each other.
type Conn struct {
	mu   sync.Mutex
	conn *net.UnixConn
}

// Filesystem is what a partition is to be made into.
type Filesystem struct {
	// Type is wire.Ext4, wire.XFS or wire.Btrfs.
	Type wire.Filesystem
	// UUID is not zero.
	UUID [16]byte
	// Label is "" for none.
	Label string
	// Options are those that are given, with their values.
	Options map[wire.Options]bool
	// Groups is the number of allocation groups of xfs; 0 leaves it to mkfs.
	Groups uint32
}

// MountOptions say how a partition is mounted.
type MountOptions struct {
	ReadOnly bool
	// UIDs and GIDs say whose ids of the machine the ids in the filesystem are. For
	// a caller in a user namespace, it is the namespace's map: the same ids are
	// then seen there as are stored.
	UIDs, GIDs []wire.Range
	// Subvolume of btrfs; "" is the filesystem's own root.
	Subvolume string
}

// Dial connects to the helper, who may refuse the caller. The caller closes the
// connection, which ends the lease.
func Dial(ctx context.Context, path string) (*Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("connect to ossify-loop: %w", err)
	}
	conn := &Conn{conn: c.(*net.UnixConn)}
	if _, _, err := conn.receive(ctx, false); err != nil {
		conn.conn.Close()
		return nil, err
	}
	return conn, nil
}

// Close ends the lease. Mounts and descriptors that came from it stay usable, and
// count for the user's quota, until they are closed and unmounted.
func (c *Conn) Close() error {
	// The request makes the helper wait for nothing; the end does it as well.
	_, _, err := c.do(context.Background(), &wire.Close{}, false)
	return errors.Join(err, c.conn.Close())
}

// Create asks for a lease of size bytes, of which partitions are made.
func (c *Conn) Create(ctx context.Context, size uint64) error {
	_, _, err := c.do(ctx, &wire.Create{Size: size}, false)
	return err
}

// Partition makes a partition of size bytes with sectors of 512 or 4096 bytes, and
// returns its index.
func (c *Conn) Partition(ctx context.Context, size uint64, sectorSize uint32) (index uint8, err error) {
	value, _, err := c.do(ctx, &wire.Partition{Size: size, SectorSize: sectorSize}, false)
	return uint8(value), err
}

// Mkfs makes a filesystem that fills the partition.
func (c *Conn) Mkfs(ctx context.Context, index uint8, fs Filesystem) error {
	r := wire.Mkfs{Index: index, Type: fs.Type, Groups: fs.Groups, UUID: fs.UUID}
	for option, on := range fs.Options {
		r.Set |= option
		if on {
			r.On |= option
		}
	}
	if err := setString(r.Label[:], fs.Label); err != nil {
		return err
	}
	_, _, err := c.do(ctx, &r, false)
	return err
}

// Mount returns a detached mount of the partition's filesystem, to be attached with
// move_mount(2). It is nosuid and nodev for good. The caller closes the file; the
// filesystem is in use until that is done and all that was attached is unmounted. For a
// moment after Mount has returned the helper has the mount too, and unmounting it at once
// fails with EBUSY (but for MNT_DETACH).
func (c *Conn) Mount(ctx context.Context, index uint8, o MountOptions) (*os.File, error) {
	r := wire.Mount{Index: index}
	if o.ReadOnly {
		r.ReadOnly = 1
	}
	if len(o.UIDs) > wire.MaxRanges || len(o.GIDs) > wire.MaxRanges {
		return nil, wire.Errorf(syscall.EINVAL, "a map of ids has at most %d ranges", wire.MaxRanges)
	}
	copy(r.UIDs[:], o.UIDs)
	copy(r.GIDs[:], o.GIDs)
	if err := setString(r.Subvolume[:], o.Subvolume); err != nil {
		return nil, err
	}
	_, f, err := c.do(ctx, &r, true)
	return f, err
}

// Label stores what a mount in a user namespace could not: SELinux contexts,
// capabilities as real root has them, and inode flags. The filesystem must be
// unmounted everywhere.
func (c *Conn) Label(ctx context.Context, index uint8, entries []wire.Entry) error {
	var list []byte
	for _, e := range entries {
		if err := e.Check(); err != nil {
			return err
		}
		list = wire.AppendEntry(list, e)
	}
	fd, err := unix.MemfdCreate("labels", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("make the list of labels: %w", err)
	}
	f := os.NewFile(uintptr(fd), "labels")
	defer f.Close()
	if _, err := f.Write(list); err != nil {
		return fmt.Errorf("write the list of labels: %w", err)
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal the list of labels: %w", err)
	}
	_, _, err = c.do(ctx, &wire.Label{Index: index}, false, fd)
	return err
}

// Sync writes out everything that was written to the partition, and returns what went
// wrong with that since the last time.
func (c *Conn) Sync(ctx context.Context, index uint8) error {
	_, _, err := c.do(ctx, &wire.Sync{Index: index}, false)
	return err
}

// Export returns the partition's bytes, for reading. The filesystem must be unmounted
// everywhere, and is never mounted again. The caller closes the file.
func (c *Conn) Export(ctx context.Context, index uint8) (*os.File, error) {
	_, f, err := c.do(ctx, &wire.Export{Index: index}, true)
	return f, err
}

// Status returns a table of the caller's leases, for root of all. The connection
// needs no lease for it.
func (c *Conn) Status(ctx context.Context) (table wire.Table, err error) {
	_, f, err := c.do(ctx, &wire.Status{}, true)
	if err != nil {
		return table, err
	}
	defer f.Close()
	if err := json.NewDecoder(io.NewSectionReader(f, 0, 1<<20)).Decode(&table); err != nil {
		return table, fmt.Errorf("read the status: %w", err)
	}
	return table, nil
}

// setString fills a field with text. It fails if the text does not fit or is not
// printable.
func setString(field []byte, text string) error {
	if len(text) > len(field) || strings.Contains(text, "\x00") {
		return wire.Errorf(syscall.EINVAL, "%.300q is longer than %d bytes, or has a NUL", text, len(field))
	}
	copy(field, text)
	_, err := wire.String(field)
	return err
}

// do sends a request and returns the reply's value, and its file if there must be one.
// A context that is done in the middle leaves a connection that can only be closed.
func (c *Conn) do(ctx context.Context, r wire.Request, wantFile bool, files ...int) (uint64, *os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := wire.Send(c.conn, wire.Encode(r), files...); err != nil {
		return 0, nil, fmt.Errorf("ask ossify-loop: %w", err)
	}
	return c.receive(ctx, wantFile)
}

// receive receives the reply to a request.
func (c *Conn) receive(ctx context.Context, wantFile bool) (uint64, *os.File, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	frame, received, err := wire.Receive(c.conn)
	if err != nil {
		return 0, nil, fmt.Errorf("ask ossify-loop: %w", errors.Join(ctx.Err(), err))
	}
	value, err := wire.DecodeReply(frame)
	switch {
	case err != nil:
	case wantFile != (len(received) == 1) || len(received) > 1:
		err = wire.Errorf(syscall.EPROTO, "ossify-loop has sent %d descriptors", len(received))
	case wantFile:
		return value, os.NewFile(uintptr(received[0]), "ossify-loop"), nil
	}
	wire.CloseAll(received)
	return value, nil, err
}
