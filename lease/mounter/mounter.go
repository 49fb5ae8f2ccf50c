// Package mounter is the half of ossify-loop that has rights: it makes backing
// files, runs mkfs on them, mounts them, and hands out mounts and finished bytes.
//
// It believes the broker nothing. A lease begins with the client's own connection,
// of which the kernel tells who is at the other end; requests are decoded and
// checked again; quotas are counted here, where the files are.
//
//	broker → mounter   client's connection, one end of a new socket pair
//	mounter → broker   reply to 0 on the new pair: who it is, or why nobody
//	broker ↔ mounter   the client's requests and their replies, on the new pair
//	broker closes it   the lease ends
//
// What is mounted was made by mkfs on a file that only the kernel has written to
// since, so no client decides what the kernel's filesystems parse.
package mounter

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ossify/ossify/lease/confine"
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
	// Group is whose users may have leases.
	Group string
	// Log gets a line for every lease that is taken, refused and dropped.
	Log io.Writer

	// placing is held while a mount is attached to mnt.
	placing sync.Mutex
	// labelling is held while a list of labels is in memory.
	labelling sync.Mutex

	mu      sync.Mutex // guards what follows, and the numbers of leases
	leases  []*lease
	taken   uint64
	clients map[uint32]int // connections by user id
}

// maxPartitions is how many a lease can have, spare how many connections more than leases
// a user.
const maxPartitions, spare = 32, 16

// lease belongs to one connection.
type lease struct {
	*caller
	number     uint64 // from 1; 0 as long as there is none
	size, used uint64
	begun      time.Time
	dropped    bool // the connection has ended, the bytes are still in use
	partitions []*partition
}

// Serve takes clients from the broker, at the other end of a descriptor, until the broker
// is gone.
func (m *Mounter) Serve(fd int) error {
	broker, err := wire.FileConn(fd)
	if err = errors.Join(err, confine.MounterFilter().Install()); err != nil {
		return fmt.Errorf("start the mounter: %w", err)
	}
	unix.CloseOnExec(m.Staging)
	m.clients = map[uint32]int{}
	for {
		_, files, err := wire.Receive(broker)
		if err != nil {
			return fmt.Errorf("the broker has ended: %w", err)
		}
		if len(files) == 2 {
			go m.client(files[0], files[1])
		} else {
			wire.CloseAll(files)
		}
	}
}

// client serves one client. It closes both of its arguments.
func (m *Mounter) client(client, fd int) {
	c, err := m.authenticate(client)
	unix.Close(client)
	channel, connErr := wire.FileConn(fd)
	if connErr != nil {
		return
	}
	defer channel.Close()
	l := &lease{caller: c}
	defer m.drop(l)
	if err == nil {
		err = m.count(c.uid, 1)
		defer m.count(c.uid, -1)
	}
	if err = errors.Join(err, wire.Send(channel, wire.Reply(0, err))); err != nil {
		m.logf("lease refused: %v", err)
		return
	}
	for {
		frame, files, err := wire.Receive(channel)
		if err != nil {
			return
		}
		r, err := wire.Decode(frame, len(files))
		value, results := uint64(0), []int(nil)
		if err == nil {
			value, results, err = m.carryOut(l, r, files)
		}
		err = wire.Send(channel, wire.Reply(value, err), results...)
		wire.CloseAll(append(files, results...))
		if _, last := r.(*wire.Close); last || err != nil {
			return
		}
	}
}

// count adds to a user's connections; it fails if there are too many.
func (m *Mounter) count(uid uint32, n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clients[uid] += n
	return wire.Require(m.clients[uid] <= m.Leases+spare, syscall.EUSERS, "user id %d has %d connections already", uid, m.clients[uid]-1)
}

// carryOut carries a request out. It returns the reply's value and descriptors.
func (m *Mounter) carryOut(l *lease, r wire.Request, files []int) (value uint64, results []int, err error) {
	var p *partition
	fd := -1
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
		err = m.label(l, r.Index, files[0])
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
	if fd >= 0 && err == nil {
		return value, []int{fd}, nil
	}
	unix.Close(fd)
	return value, nil, err
}

// create counts a lease's bytes.
func (m *Mounter) create(l *lease, size uint64) (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	bytes, count := uint64(0), 0
	for _, o := range m.leases {
		if o.uid == l.uid {
			bytes, count = bytes+o.size, count+1
		}
	}
	err = cmp.Or(
		wire.Require(l.number == 0, syscall.EEXIST, "this connection has a lease already"),
		wire.Require(l.uid != 0, syscall.EPERM, "root needs no lease"),
		wire.Require(count < m.Leases, syscall.EDQUOT, "you have %d leases, and can have no more; see ossify-loop status", count),
		wire.Require(size <= m.Quota-bytes, syscall.EDQUOT, "a lease of %d bytes goes beyond your quota of %d, of which %d bytes are left; see ossify-loop status", size, m.Quota, m.Quota-bytes))
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
	for _, p := range l.partitions {
		p.close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases = slices.DeleteFunc(m.leases, func(other *lease) bool { return other == l })
	m.logf("lease %d dropped: user %s (%d), after %s", l.number, l.name, l.uid, time.Since(l.begun).Round(time.Millisecond))
}

// partition makes a partition of what is left of the lease.
func (m *Mounter) partition(l *lease, r *wire.Partition) (index uint64, err error) {
	if err := cmp.Or(
		wire.Require(l.number != 0, syscall.EINVAL, "this connection has no lease yet"),
		wire.Require(len(l.partitions) < maxPartitions, syscall.EDQUOT, "a lease has at most %d partitions", maxPartitions),
		wire.Require(r.Size <= l.size-l.used, syscall.ENOSPC, "the lease has %d bytes left, not %d", l.size-l.used, r.Size)); err != nil {
		return 0, err
	}
	p, err := newPartition(m.Staging, r.Size, r.SectorSize)
	if err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l.partitions, l.used = append(l.partitions, p), l.used+r.Size
	return uint64(len(l.partitions) - 1), nil
}

// find returns a partition, which, if change, was not exported, and has a filesystem
// if it must have one.
func (l *lease) find(index uint8, change, filesystem bool) (*partition, error) {
	if int(index) >= len(l.partitions) {
		return nil, wire.Errorf(syscall.EINVAL, "the lease has no partition %d, only %d of them", index, len(l.partitions))
	}
	p := l.partitions[index]
	return p, cmp.Or(
		wire.Require(!change || !p.exported, syscall.EPERM, "the partition was exported: its bytes are final"),
		wire.Require(!filesystem || p.kind != 0, syscall.EPERM, "the partition has no filesystem that ossify-loop has made, so it is not mounted"))
}

// mount mounts a partition for the client.
func (m *Mounter) mount(l *lease, p *partition, r *wire.Mount) (fd int, err error) {
	none := func(r wire.Range) bool { return r.Count == 0 }
	uids, gids := slices.DeleteFunc(r.UIDs[:], none), slices.DeleteFunc(r.GIDs[:], none)
	subvolume, err := wire.String(r.Subvolume[:])
	if err = cmp.Or(err, checkRanges("user", uids, l.uids), checkRanges("group", gids, l.gids),
		wire.Require(subvolume == "" || p.kind == wire.Btrfs, syscall.EINVAL, "%s has no subvolumes", p.kind)); err != nil {
		return -1, err
	}
	mnt, err := p.mount(r.ReadOnly == 1, subvolume)
	if err != nil {
		return -1, err
	}
	defer unix.Close(mnt)
	return m.hand(mnt, uids, gids)
}

// status returns a memfd with a wire.Table of the caller's leases, or for root of all.
func (m *Mounter) status(c *caller) (int, error) {
	table := wire.Table{Quota: m.Quota, Limit: m.Leases}
	m.mu.Lock()
	for _, l := range m.leases {
		if c.uid == 0 || c.uid == l.uid {
			table.Leases = append(table.Leases, wire.Lease{Number: l.number, User: l.name, Size: l.size, Used: l.used, Seconds: uint64(time.Since(l.begun).Seconds()), Dropped: l.dropped})
		}
	}
	m.mu.Unlock()
	text, _ := json.Marshal(table) // fails for other types only
	fd, err := unix.MemfdCreate("status", unix.MFD_CLOEXEC)
	if err == nil {
		_, err = unix.Pwrite(fd, text, 0)
	}
	return fd, wire.In("write the status", err)
}

// logf writes a line. What comes from clients has no line breaks: names are those of
// passwd.
func (m *Mounter) logf(format string, args ...any) {
	fmt.Fprintf(m.Log, "ossify-loop: "+format+"\n", args...)
}
