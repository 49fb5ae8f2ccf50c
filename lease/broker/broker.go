// Package broker is the half of ossify-loop that clients talk to. It has no rights:
// it decodes requests, and gives those that make sense to the mounter, who decodes
// them again. It sees to it that nobody keeps others waiting.
package broker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

const (
	// patience is how long a connection may go without a lease, and a client may take to
	// receive a reply.
	patience = 10 * time.Second
	// connections are how many there may be at once.
	connections = 1024
)

// Broker serves connections. Its fields are set before Serve is called.
type Broker struct {
	// Mounter is the connection to the mounter.
	Mounter *net.UnixConn
	// PerUser is how many connections a user may have at once.
	PerUser int

	mu    sync.Mutex
	users map[uint64]int // connections by user id
}

// Serve accepts connections until the listener fails or the mounter is gone.
func (b *Broker) Serve(listener *net.UnixListener) error {
	b.users = map[uint64]int{}
	gone := make(chan error, 2)
	go func() {
		_, _, err := wire.Receive(b.Mounter) // says nothing here
		gone <- fmt.Errorf("the mounter has ended: %w", err)
	}()
	go func() {
		for free := make(chan struct{}, connections); ; {
			free <- struct{}{}
			client, err := listener.AcceptUnix()
			if err != nil {
				gone <- fmt.Errorf("accept connections: %w", err)
				return
			}
			go func() {
				b.serve(client)
				client.Close()
				<-free
			}()
		}
	}()
	return <-gone
}

// serve serves a connection to its end.
func (b *Broker) serve(client *net.UnixConn) {
	channel, uid, err := b.open(client)
	if err == nil {
		defer channel.Close()
		if b.count(uid, 1) > b.PerUser {
			err = wire.Errorf(syscall.EUSERS, "you have %d connections already", b.PerUser)
			fmt.Fprintf(os.Stderr, "ossify-loop: lease refused: user id %d has %d connections already\n", uid, b.PerUser)
		}
		defer b.count(uid, -1)
	}
	if !answer(client, 0, err) || err != nil || client.SetReadDeadline(time.Now().Add(patience)) != nil {
		return
	}
	for {
		frame, files, err := wire.Receive(client)
		var bad *wire.Error
		if err != nil && !errors.As(err, &bad) {
			return
		}
		sequence, r, decodeErr := wire.Decode(frame, len(files))
		if err == nil {
			err = decodeErr
		}
		ok, create := false, false
		if err == nil {
			var reply wire.Reply
			reply, ok = forward(client, channel, wire.Encode(sequence, r), files)
			_, create = r.(*wire.Create)
			create = create && reply.Errno == 0
		} else {
			ok = answer(client, sequence, err)
		}
		wire.CloseAll(files)
		// Who has a lease may be silent.
		if !ok || create && client.SetReadDeadline(time.Time{}) != nil {
			return
		}
	}
}

// count adds to the connections of a user.
func (b *Broker) count(uid uint64, n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users[uid] += n
	if b.users[uid] == 0 {
		delete(b.users, uid)
	}
	return b.users[uid]
}

// open gives the client's connection to the mounter, who looks at who it is, and
// returns the channel for its requests. It fails if the client is nobody.
func (b *Broker) open(client *net.UnixConn) (channel *net.UnixConn, uid uint64, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	defer unix.Close(pair[1])
	if channel, err = wire.FileConn(pair[0]); err != nil {
		return nil, 0, err
	}
	raw, err := client.SyscallConn()
	if err == nil {
		var sendErr error
		err = raw.Control(func(fd uintptr) { sendErr = wire.Send(b.Mounter, []byte{0}, int(fd), pair[1]) })
		err = errors.Join(err, sendErr)
	}
	var reply wire.Reply
	if err == nil {
		reply, _, _, err = receive(channel)
	}
	if err = errors.Join(err, reply.Err()); err != nil {
		channel.Close()
	}
	return channel, reply.Value, err
}

// receive receives a reply, and its descriptors when the mounter has closed them.
func receive(channel *net.UnixConn) (reply wire.Reply, frame []byte, files []int, err error) {
	frame, files, err = wire.Receive(channel)
	if err == nil && len(files) > 0 {
		_, _, err = wire.Receive(channel)
	}
	if err == nil {
		reply, err = wire.DecodeReply(frame)
	}
	return reply, frame, files, err
}

// forward gives a request to the mounter and its reply to the client.
func forward(client, channel *net.UnixConn, request []byte, files []int) (reply wire.Reply, ok bool) {
	if wire.Send(channel, request, files...) != nil {
		return reply, false
	}
	reply, frame, results, err := receive(channel)
	if err == nil {
		err = send(client, frame, results...)
	}
	wire.CloseAll(results)
	if err == nil && len(results) > 0 {
		err = send(client, frame)
	}
	return reply, err == nil
}

// answer sends the broker's own reply; it says whether the client has taken it.
func answer(client *net.UnixConn, sequence uint32, err error) bool {
	return send(client, wire.ReplyTo(sequence, 0, err).Encode()) == nil
}

// send sends a frame to a client, who may not take their time.
func send(client *net.UnixConn, frame []byte, files ...int) error {
	if err := client.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	return wire.Send(client, frame, files...)
}
