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
	users map[uint32]int // connections by user id
	all   int
}

// Serve accepts connections until the listener fails or the mounter is gone.
func (b *Broker) Serve(listener *net.UnixListener) error {
	b.users = map[uint32]int{}
	gone := make(chan error, 2)
	go func() {
		_, _, err := wire.Receive(b.Mounter) // says nothing here
		gone <- fmt.Errorf("the mounter has ended: %w", err)
	}()
	go func() {
		for {
			client, err := listener.AcceptUnix()
			switch {
			case err == nil:
				go b.serve(client)
			case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ECONNABORTED):
				time.Sleep(100 * time.Millisecond)
			default:
				gone <- fmt.Errorf("accept connections: %w", err)
				return
			}
		}
	}()
	return <-gone
}

// serve serves a connection to its end.
func (b *Broker) serve(client *net.UnixConn) {
	defer client.Close()
	release, err := b.admit(client)
	if err != nil {
		answer(client, 0, err)
		return
	}
	defer release()
	channel, err := b.open(client)
	if err == nil {
		defer channel.Close()
	}
	if !answer(client, 0, err) || err != nil {
		return
	}
	if err := client.SetReadDeadline(time.Now().Add(patience)); err != nil {
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
		if err != nil {
			wire.CloseAll(files)
			if !answer(client, sequence, err) {
				return
			}
			continue
		}
		reply, ok := forward(client, channel, wire.Encode(sequence, r), files)
		if !ok {
			return
		}
		if _, is := r.(*wire.Create); is && reply.Errno == 0 {
			if err := client.SetReadDeadline(time.Time{}); err != nil {
				return
			}
		}
	}
}

// admit counts the connection of a user.
func (b *Broker) admit(client *net.UnixConn) (release func(), err error) {
	raw, err := client.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := errors.Join(raw.Control(func(fd uintptr) {
		peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}), peerErr); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all >= connections || b.users[peer.Uid] >= b.PerUser {
		fmt.Fprintf(os.Stderr, "ossify-loop: lease refused: user id %d has %d of %d connections\n", peer.Uid, b.users[peer.Uid], b.all)
		return nil, wire.Errorf(syscall.EUSERS, "there are too many connections: you have %d of %d", b.users[peer.Uid], b.all)
	}
	b.all++
	b.users[peer.Uid]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.all--
		if b.users[peer.Uid]--; b.users[peer.Uid] == 0 {
			delete(b.users, peer.Uid)
		}
	}, nil
}

// open gives the client's connection to the mounter, who looks at who it is, and
// returns the channel for its requests. It fails if the client is nobody.
func (b *Broker) open(client *net.UnixConn) (channel *net.UnixConn, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[1])
	if channel, err = wire.FileConn(pair[0]); err != nil {
		return nil, err
	}
	raw, err := client.SyscallConn()
	if err == nil {
		var sendErr error
		err = raw.Control(func(fd uintptr) { sendErr = wire.Send(b.Mounter, []byte{0}, int(fd), pair[1]) })
		err = errors.Join(err, sendErr)
	}
	if err == nil {
		var frame []byte
		var reply wire.Reply
		if frame, _, err = wire.Receive(channel); err == nil {
			reply, err = wire.DecodeReply(frame)
		}
		if err == nil {
			err = reply.Err()
		}
	}
	if err != nil {
		channel.Close()
		return nil, err
	}
	return channel, nil
}

// forward gives a request to the mounter and its reply to the client.
func forward(client, channel *net.UnixConn, request []byte, files []int) (reply wire.Reply, ok bool) {
	err := wire.Send(channel, request, files...)
	wire.CloseAll(files)
	if err != nil {
		return reply, false
	}
	frame, results, err := wire.Receive(channel)
	if err != nil {
		return reply, false
	}
	if len(results) > 0 {
		_, _, err = wire.Receive(channel) // the mounter has closed them
	}
	if err == nil {
		err = client.SetWriteDeadline(time.Now().Add(patience))
	}
	if err == nil {
		err = wire.Send(client, frame, results...)
	}
	wire.CloseAll(results)
	if err == nil && len(results) > 0 {
		err = wire.Send(client, frame)
	}
	if err == nil {
		reply, err = wire.DecodeReply(frame)
	}
	return reply, err == nil
}

// answer sends the broker's own reply; it says whether the client has taken it.
func answer(client *net.UnixConn, sequence uint32, err error) bool {
	reply := wire.ReplyTo(sequence, 0, err)
	return client.SetWriteDeadline(time.Now().Add(patience)) == nil && wire.Send(client, reply.Encode()) == nil
}
