package mounter

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// Mounter serves leases. Its fields are set before Serve is called.
type Mounter struct {
	// Staging is the directory of backing files, open.
	Staging int
	// Quota is how many bytes all leases of a user may have, Leases how many
	// leases there may be.
	Quota  uint64
	Leases int
	// Group is whose users may have leases, Etc the directory of passwd, group,
	// subuid and subgid.
	Group, Etc string
	// Log gets a line for every lease that is taken, refused and dropped.
	Log io.Writer

	// placing is held while a mount is attached to mnt.
	placing sync.Mutex
	// labelling is held while a list of labels is in memory.
	labelling sync.Mutex

	mu     sync.Mutex // guards what follows, and the numbers of leases
	leases []*lease
	taken  uint64
}

// maxPartitions is how many a lease can have.
const maxPartitions = 32

// lease belongs to one connection.
type lease struct {
	*caller
	number     uint64 // from 1; 0 as long as there is none
	size, used uint64
	begun      time.Time
	dropped    bool // the connection has ended, the bytes are still in use
	partitions []*partition
}

// Serve takes clients from the broker, until the broker is gone.
func (m *Mounter) Serve(broker *net.UnixConn) error {
	for {
		_, files, err := wire.Receive(broker)
		if err != nil {
			return fmt.Errorf("the broker has ended: %w", err)
		}
		if len(files) != 2 {
			wire.CloseAll(files)
			continue
		}
		go func() {
			channel, err := wire.FileConn(files[1])
			if err != nil {
				unix.Close(files[0])
				return
			}
			m.client(files[0], channel)
		}()
	}
}

// client serves one client. It closes both of its arguments.
func (m *Mounter) client(client int, channel *net.UnixConn) {
	defer channel.Close()
	c, err := m.authenticate(client)
	unix.Close(client)
	uid := uint64(0)
	if err == nil {
		uid = uint64(c.uid)
	}
	if sendErr := wire.Send(channel, wire.ReplyTo(0, uid, err).Encode()); err != nil || sendErr != nil {
		m.logf("lease refused: %v", errors.Join(err, sendErr))
		return
	}
	l := &lease{caller: c}
	defer m.drop(l)
	for {
		frame, files, err := wire.Receive(channel)
		if err != nil {
			return
		}
		sequence, r, err := wire.Decode(frame, len(files))
		value, fd := uint64(0), -1
		if err == nil {
			value, fd, err = m.carryOut(l, r, files)
		}
		wire.CloseAll(files)
		answer := wire.ReplyTo(sequence, value, err).Encode()
		if fd >= 0 {
			err = wire.Send(channel, answer, fd)
			unix.Close(fd)
			err = errors.Join(err, wire.Send(channel, answer))
		} else {
			err = wire.Send(channel, answer)
		}
		if _, last := r.(*wire.Close); last || err != nil {
			return
		}
	}
}

// carryOut carries a request out. It returns the reply's value, and its descriptor or
// -1.
func (m *Mounter) carryOut(l *lease, r wire.Request, files []int) (value uint64, fd int, err error) {
	fd = -1
	var p *partition
	switch r := r.(type) {
	case *wire.Create:
		err = m.create(l, r.Size)
	case *wire.Status:
		fd, err = m.status(l.caller)
	case *wire.Partition:
		value, err = m.partition(l, r)
	case *wire.Mkfs:
		if p, err = l.find(r.Index, true, false); err == nil {
			err = p.mkfs(r)
		}
	case *wire.Mount:
		if p, err = l.find(r.Index, true, true); err == nil {
			fd, err = m.mount(l, p, r)
		}
	case *wire.Label:
		var size int64
		if size, err = checkSealed(files[0]); err == nil {
			p, err = l.find(r.Index, true, true)
		}
		if err == nil {
			err = m.label(p, files[0], size)
		}
	case *wire.Sync:
		if p, err = l.find(r.Index, false, false); err == nil {
			err = p.sync()
		}
	case *wire.Export:
		if p, err = l.find(r.Index, false, false); err == nil {
			value = p.size
			fd, err = p.export()
		}
	}
	if err != nil && fd >= 0 {
		unix.Close(fd)
		fd = -1
	}
	return value, fd, err
}

// usage is what a user's leases add up to.
func (m *Mounter) usage(uid uint32) (bytes uint64, count int) {
	for _, l := range m.leases {
		if l.uid == uid {
			bytes, count = bytes+l.size, count+1
		}
	}
	return bytes, count
}

// create counts a lease's bytes.
func (m *Mounter) create(l *lease, size uint64) (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	bytes, count := m.usage(l.uid)
	switch {
	case l.number != 0:
		return wire.Errorf(syscall.EEXIST, "this connection has a lease already")
	case l.uid == 0:
		err = wire.Errorf(syscall.EPERM, "root needs no lease")
	case count >= m.Leases:
		err = wire.Errorf(syscall.EDQUOT, "you have %d leases, and can have no more; see ossify-loop status", count)
	case size > m.Quota-bytes:
		err = wire.Errorf(syscall.EDQUOT, "a lease of %d bytes goes beyond your quota of %d, of which %d bytes are left; see ossify-loop status", size, m.Quota, m.Quota-bytes)
	}
	if err != nil {
		m.logf("lease refused: user %s (%d): %v", l.name, l.uid, err)
		return err
	}
	m.taken++
	l.number, l.size, l.begun = m.taken, size, time.Now()
	m.leases = append(m.leases, l)
	m.logf("lease %d taken: user %s (%d), %d bytes", l.number, l.name, l.uid, size)
	return nil
}

// drop ends a lease. Its bytes are the user's until nobody has them anymore.
func (m *Mounter) drop(l *lease) {
	if l.number == 0 {
		return
	}
	m.mu.Lock()
	l.dropped = true
	m.mu.Unlock()
	wait := pause
	for _, p := range l.partitions {
		for ; !p.unused(); wait = min(2*wait, 20*pause) {
			time.Sleep(wait)
		}
		p.file.Close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases = slices.DeleteFunc(m.leases, func(other *lease) bool { return other == l })
	m.logf("lease %d dropped: user %s (%d), after %s", l.number, l.name, l.uid, time.Since(l.begun).Round(time.Millisecond))
}

// partition makes a partition of what is left of the lease.
func (m *Mounter) partition(l *lease, r *wire.Partition) (index uint64, err error) {
	switch {
	case l.number == 0:
		return 0, wire.Errorf(syscall.EINVAL, "this connection has no lease yet")
	case len(l.partitions) >= maxPartitions:
		return 0, wire.Errorf(syscall.EDQUOT, "a lease has at most %d partitions", maxPartitions)
	case r.Size > l.size-l.used:
		return 0, wire.Errorf(syscall.ENOSPC, "the lease has %d bytes left, not %d", l.size-l.used, r.Size)
	}
	p, err := newPartition(m.Staging, r.Size, r.SectorSize)
	if err != nil {
		return 0, err
	}
	l.partitions = append(l.partitions, p)
	m.mu.Lock()
	defer m.mu.Unlock()
	l.used += r.Size
	return uint64(len(l.partitions) - 1), nil
}

// find returns a partition, which, if change, was not exported, and has a filesystem
// if it must have one.
func (l *lease) find(index uint8, change, filesystem bool) (*partition, error) {
	if int(index) >= len(l.partitions) {
		return nil, wire.Errorf(syscall.EINVAL, "the lease has no partition %d, only %d of them", index, len(l.partitions))
	}
	p := l.partitions[index]
	switch {
	case change && p.exported:
		return nil, wire.Errorf(syscall.EPERM, "the partition was exported: its bytes are final")
	case filesystem && p.kind == 0:
		return nil, wire.Errorf(syscall.EPERM, "the partition has no filesystem that ossify-loop has made, so it is not mounted")
	}
	return p, nil
}

// mount mounts a partition for the client.
func (m *Mounter) mount(l *lease, p *partition, r *wire.Mount) (fd int, err error) {
	uids, gids := ranges(r.UIDs), ranges(r.GIDs)
	if err := checkRanges("user", uids, l.uids); err != nil {
		return -1, err
	}
	if err := checkRanges("group", gids, l.gids); err != nil {
		return -1, err
	}
	subvolume, err := wire.String(r.Subvolume[:])
	if err != nil {
		return -1, err
	}
	if subvolume != "" && p.kind != wire.Btrfs {
		return -1, wire.Errorf(syscall.EINVAL, "%s has no subvolumes", p.kind)
	}
	mnt, err := p.mount(r.ReadOnly == 1, subvolume)
	if err != nil {
		return -1, err
	}
	defer unix.Close(mnt)
	return m.hand(mnt, uids, gids)
}

// logf writes a line. What comes from clients has no line breaks: names are those of
// passwd.
func (m *Mounter) logf(format string, args ...any) {
	fmt.Fprintf(m.Log, "ossify-loop: "+format+"\n", args...)
}
